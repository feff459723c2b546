//! The switch and the counts of a fallback, which all its services share.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Waker,
    time::Duration,
};

use tokio::time::Instant;

use super::config::Config;
use crate::{
    CarryRejection,
    call::{
        deadline::deadline,
        degraded::Reason,
        lock::lock,
        reserve::Reserve,
        waiters::{Key, Waiters, wake_all},
    },
    error::SwitchedOff,
    telemetry::{Event, instrument::FALLBACK_CALLS},
};

/// The way in which a call that needed a fallback ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// The fallback gave the response of a call that failed.
    Used,
    /// The fallback gave the response while it was switched off.
    Off,
    /// The fallback failed, panicked or took too long.
    Failed,
    /// There was no fallback for the call.
    Declined,
}

impl Use {
    const ALL: [Self; 4] = [Self::Used, Self::Off, Self::Failed, Self::Declined];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::Off => "off",
            Self::Failed => "failed",
            Self::Declined => "declined",
        }
    }
}

/// The settings, the switch and the counts.
#[derive(Debug)]
pub(super) struct State {
    pub(super) config: Config,
    pub(super) reserve: Reserve,
    is_off: AtomicBool,
    owned: AtomicBool,
    counts: [AtomicU64; Use::ALL.len()],
    /// The callers that wait until the service is ready.
    waiting: Mutex<Waiters>,
}

impl State {
    pub(super) fn new((config, reserve): (Config, Reserve)) -> Self {
        Self {
            config,
            reserve,
            is_off: AtomicBool::new(false),
            owned: AtomicBool::new(false),
            counts: Default::default(),
            waiting: Mutex::default(),
        }
    }

    /// Returns a state with the same settings, switched on and without counts.
    pub(super) fn fresh(&self) -> Self {
        let reporter = self.config.reporter.fresh();
        Self::new((Config { reporter, ..self.config.clone() }, self.reserve))
    }

    #[inline]
    pub(super) fn is_off(&self) -> bool {
        self.is_off.load(Ordering::Relaxed)
    }

    /// Returns `true` to the first caller only, who then owns the switch.
    pub(super) fn claim(&self) -> bool {
        !self.owned.swap(true, Ordering::Relaxed)
    }

    pub(super) fn switch(&self, is_off: bool) {
        self.is_off.store(is_off, Ordering::Relaxed);
        if is_off {
            let wakers: Vec<_> = lock(&self.waiting).call_all().collect();
            wake_all(wakers);
        }
    }

    /// Adds a caller to those that are woken by the switch, or renews its place.
    pub(super) fn wait(&self, place: Option<Key>, waker: &Waker) -> Key {
        // Cloned before and dropped after the lock, because both can run code of a user.
        let waker = waker.clone();
        let (place, _outdated) = lock(&self.waiting).join(place, waker);
        place
    }

    pub(super) fn stop_waiting(&self, place: Key) {
        let outdated = lock(&self.waiting).remove(place);
        drop(outdated);
    }

    pub(super) fn limit(&self) -> Duration {
        self.config.limit
    }

    /// Returns the longest time of a fallback that begins now.
    ///
    /// It ends before the caller's deadline too, so that the caller learns the reason if it hangs.
    pub(super) fn limit_now(&self) -> Duration {
        let left = deadline().map(|end| self.reserve.time_before(end, Instant::now()));
        left.map_or(self.config.limit, |left| left.min(self.config.limit))
    }

    pub(super) fn count(&self, ended: Use) -> u64 {
        self.counts[ended as usize].load(Ordering::Relaxed)
    }

    fn add(&self, ended: Use) {
        self.counts[ended as usize].fetch_add(1, Ordering::Relaxed);
        if let Some(meter) = self.config.reporter.meter() {
            meter.add(&FALLBACK_CALLS, [ended.as_str(), ""]);
        }
    }

    /// Counts and reports a response of the fallback.
    pub(super) fn used(&self, reason: &Reason) {
        self.add(if *reason == Reason::Off { Use::Off } else { Use::Used });
        self.config.reporter.get().emit(Event::FallbackUsed { reason });
    }

    /// Counts and reports a fallback that failed. `cause` is one word.
    #[cold]
    pub(super) fn failed(&self, reason: &Reason, cause: &'static str) {
        self.add(Use::Failed);
        self.config.reporter.get().emit(Event::FallbackFailed { reason, cause });
    }

    /// Counts a call without a fallback.
    pub(super) fn declined(&self) {
        self.add(Use::Declined);
    }

    /// Rejects a call that has no fallback while it is switched off.
    #[cold]
    pub(super) fn reject_off<E: CarryRejection>(&self) -> E {
        let rejection = SwitchedOff::by(self.config.reporter.name().cloned());
        self.config.reporter.get().reject(rejection)
    }
}
