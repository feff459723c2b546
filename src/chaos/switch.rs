//! The switch that arms a chaos layer.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::Waker,
    time::Duration,
};

use tokio::time::Instant;

use super::config::{Config, LONGEST, Windows};
use crate::{
    ConfigError,
    call::{
        lock::lock,
        waiters::{Key, Waiters, wake_all},
    },
    chaos::draw::Shares,
    telemetry::{Event, Kind, ReporterCell},
};

/// The state that the services and handles of one chaos layer share.
#[derive(Debug)]
pub(crate) struct Switch {
    /// Only a hint for the path of a disarmed layer, because an arming ends without a write.
    armed: AtomicBool,
    injected: AtomicU64,
    hung: AtomicU32,
    max_hung: u32,
    windows: Windows,
    reporter: ReporterCell,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Incremented when the layer is armed or disarmed, which releases the calls held before.
    generation: u64,
    arming: Option<Arming>,
    held: Waiters,
}

#[derive(Debug)]
struct Arming {
    since: Instant,
    until: Instant,
    /// The number of calls since the layer was armed whose fault was drawn.
    drawn: u64,
    /// The number of calls since the layer was armed that a partition has separated.
    separated: u64,
    /// The number of faults that were injected before.
    injected: u64,
}

/// A call that began while the layer was armed, within a window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    pub(super) began: Instant,
    /// The end of the window, or of the arming.
    pub(super) until: Instant,
    generation: u64,
}

impl Ticket {
    /// Returns the end of a pause, which is not later than that of all faults.
    pub(super) fn end_of(&self, since: Instant, length: Duration) -> Instant {
        since.checked_add(length).map_or(self.until, |end| end.min(self.until))
    }
}

impl Arming {
    /// Returns the end of the faults at the time `now`, or `None` if there are none now.
    fn end_of_faults(&self, windows: &Windows, now: Instant) -> Option<Instant> {
        let Some(windows) = windows else { return Some(self.until) };
        let passed = now.saturating_duration_since(self.since);
        let window = windows.iter().find(|window| window.contains(&passed))?;
        Some(self.until.min(self.since + window.end))
    }
}

impl Switch {
    /// Checks the settings of a layer. Returns its switch, and the shares of its faults.
    pub(crate) fn build<F>(config: Config<F>) -> Result<(Arc<Self>, Shares<F>), ConfigError> {
        let (name, max_hung) = (config.name.clone(), config.max_hung);
        let (shares, windows) = config.checked()?;
        let switch = Self {
            armed: AtomicBool::new(false),
            injected: AtomicU64::new(0),
            hung: AtomicU32::new(0),
            max_hung,
            windows,
            reporter: ReporterCell::new(name, Kind::Chaos),
            state: Mutex::default(),
        };
        Ok((Arc::new(switch), shares))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn reporter_cell(&self) -> &ReporterCell {
        &self.reporter
    }

    /// Returns `false` if the layer is disarmed, with one load.
    #[inline]
    pub(crate) fn may_be_armed(&self) -> bool {
        self.armed.load(Ordering::Relaxed)
    }

    pub(super) fn is_armed(&self) -> bool {
        self.end_if_over(Instant::now());
        self.may_be_armed()
    }

    pub(super) fn injected(&self) -> u64 {
        self.injected.load(Ordering::Relaxed)
    }

    pub(super) fn hung(&self) -> u32 {
        self.hung.load(Ordering::Relaxed)
    }

    pub(super) fn arm_for(&self, time: Duration) -> Result<(), ConfigError> {
        ConfigError::require_positive("arm_for", time)?;
        if time > LONGEST {
            return Err(ConfigError::new("arm_for", time, "it must not be longer than 1 h"));
        }
        let since = Instant::now();
        let injected = self.injected();
        let arming = Arming { since, until: since + time, drawn: 0, separated: 0, injected };
        let (held, before) = {
            let mut state = self.state();
            let before = state.arming.replace(arming);
            self.armed.store(true, Ordering::Relaxed);
            (state.release(), before)
        };
        if let Some(before) = before {
            self.report_end(&before);
        }
        self.reporter.get().emit(Event::ChaosArmed { limit: time });
        wake_all(held);
        Ok(())
    }

    pub(super) fn disarm(&self) {
        self.disarm_if(|_| true);
    }

    /// Disarms the layer if its time is over.
    pub(super) fn end_if_over(&self, now: Instant) {
        self.disarm_if(|arming| arming.until <= now);
    }

    fn disarm_if(&self, condition: impl FnOnce(&Arming) -> bool) {
        let (held, before) = {
            let mut state = self.state();
            let Some(before) = state.arming.take_if(|arming| condition(arming)) else { return };
            self.armed.store(false, Ordering::Relaxed);
            (state.release(), before)
        };
        self.report_end(&before);
        wake_all(held);
    }

    fn report_end(&self, arming: &Arming) {
        let injected = self.injected() - arming.injected;
        self.reporter.get().emit(Event::ChaosDisarmed { injected });
    }

    /// Returns the ticket of a call, or `None` if the call has no fault, because the layer is
    /// disarmed or because it is outside of the windows.
    pub(crate) fn admit(&self) -> Option<Ticket> {
        let began = Instant::now();
        self.end_if_over(began);
        let state = self.state();
        let until = state.arming.as_ref()?.end_of_faults(&self.windows, began)?;
        Some(Ticket { began, until, generation: state.generation })
    }

    /// Numbers a call whose fault is drawn. Other calls have no number, so that the shares are
    /// exact.
    ///
    /// Returns `None` if the layer was disarmed since the call began.
    pub(crate) fn number(&self, ticket: Ticket) -> Option<u64> {
        self.count(ticket, |arming| &mut arming.drawn)
    }

    /// Numbers a call that a partition separates, apart from those whose fault is drawn.
    ///
    /// Returns `None` if the layer was disarmed since the call began.
    pub(super) fn number_separated(&self, ticket: Ticket) -> Option<u64> {
        self.count(ticket, |arming| &mut arming.separated)
    }

    fn count(&self, ticket: Ticket, of: impl FnOnce(&mut Arming) -> &mut u64) -> Option<u64> {
        let mut state = self.state();
        if state.generation != ticket.generation {
            return None;
        }
        let next = of(state.arming.as_mut()?);
        let number = *next;
        *next += 1;
        Some(number)
    }

    /// Returns `true` if the layer was disarmed since the call began, or if the window has ended.
    #[cfg(feature = "http")]
    pub(crate) fn is_over(&self, ticket: Ticket) -> bool {
        Instant::now() >= ticket.until || self.state().generation != ticket.generation
    }

    /// Counts and reports a fault.
    pub(crate) fn inject(&self, fault: &'static str, call: u64) {
        self.injected.fetch_add(1, Ordering::Relaxed);
        self.reporter.get().emit(Event::FaultInjected { fault, call });
    }

    /// Takes a place among the calls that hang. Returns `false` if there is none.
    pub(super) fn begin_hang(&self) -> bool {
        let more = |hung| (hung < self.max_hung).then(|| hung + 1);
        self.hung.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Returns the place of a call that hung.
    pub(super) fn end_hang(&self) {
        self.hung.fetch_sub(1, Ordering::Relaxed);
    }

    /// Holds a call. Returns `None` if it was released, and has no place any more.
    pub(super) fn hold(&self, ticket: Ticket, place: Option<Key>, waker: &Waker) -> Option<Key> {
        // Cloned before and dropped after the lock, because both can run code of a user.
        let waker = waker.clone();
        let (place, _outdated) = {
            let mut state = self.state();
            if state.generation == ticket.generation {
                let (place, outdated) = state.held.join(place, waker);
                (Some(place), (outdated, None))
            } else {
                let left = place.and_then(|place| state.held.remove(place).err());
                (None, (left, Some(waker)))
            }
        };
        place
    }

    pub(super) fn leave(&self, place: Key) {
        let outdated = self.state().held.remove(place);
        drop(outdated);
    }
}

impl State {
    /// Releases the calls that are held. Wake them after the lock is released.
    fn release(&mut self) -> Vec<Waker> {
        self.generation += 1;
        self.held.call_all().collect()
    }
}
