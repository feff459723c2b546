//! The breaker itself: its states, when it changes them, and whom it lets through.

use std::{
    fmt,
    sync::{
        Arc, MutexGuard, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    cold::{Cold, Machine},
    config::Config,
    effects::{Effects, Event},
    half_open::LeaseId,
    state::State,
    window::{CallWindow, Recorded, Sample, Span, Totals},
};
use crate::{
    call::lock::lock,
    window::{Buckets, Tick},
};

/// A state and the number of changes that led to it, in one word: what a call reads to be let
/// through, and what tells a late result from one that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Phase(u64);

const CLOSED: u64 = 0;
const DISABLED: u64 = 1;
const OPEN: u64 = 2;
const HALF_OPEN: u64 = 3;
const FORCED_OPEN: u64 = 4;

impl Phase {
    /// The phase as a word that a response can hold.
    pub(super) fn word(self) -> u64 {
        self.0
    }

    pub(super) fn from_word(word: u64) -> Self {
        Self(word)
    }

    pub(super) fn state(self) -> State {
        match self.0 & 0b111 {
            CLOSED => State::Closed,
            DISABLED => State::Disabled,
            OPEN => State::Open,
            HALF_OPEN => State::HalfOpen,
            _ => State::ForcedOpen,
        }
    }

    /// Whether every call is let through.
    #[inline]
    pub(super) fn lets_all_through(self) -> bool {
        self.0 & 0b111 <= DISABLED
    }

    #[inline]
    pub(super) fn is_closed(self) -> bool {
        self.0 & 0b111 == CLOSED
    }

    #[inline]
    pub(super) fn generation(self) -> u64 {
        self.0 >> 3
    }

    pub(super) fn next(self, state: State) -> Self {
        let state = match state {
            State::Closed => CLOSED,
            State::Disabled => DISABLED,
            State::Open => OPEN,
            State::HalfOpen => HALF_OPEN,
            State::ForcedOpen => FORCED_OPEN,
        };
        Self((self.generation() + 1) << 3 | state)
    }
}

/// One breaker. Small while all is well: what only a failing dependency needs is made when it first
/// fails, so that a million breakers, one for each host, fit into memory.
pub(crate) struct Breaker {
    pub(super) config: Arc<Config>,
    pub(super) phase: AtomicU64,
    pub(super) window: Window,
    pub(super) cold: OnceLock<Box<Cold>>,
}

pub(super) enum Window {
    Calls(CallWindow),
    Time(Buckets),
}

/// Whether a call may go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Admitted { phase: Phase },
    Probe { phase: Phase, lease: LeaseId },
    Rejected(Rejected),
}

impl Decision {
    /// Returns the phase and the lease to admit a call with, or the rejection.
    #[inline]
    pub(super) fn admission(self) -> Result<(Phase, Option<LeaseId>), Rejected> {
        match self {
            Self::Admitted { phase } => Ok((phase, None)),
            Self::Probe { phase, lease } => Ok((phase, Some(lease))),
            Self::Rejected(rejected) => Err(rejected),
        }
    }
}

/// A rejection and what to expect next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rejected {
    pub(super) retry_after: Option<Duration>,
    /// The nearest instant at which the answer could be another without anything happening.
    pub(super) ask_again: Option<Instant>,
}

impl Breaker {
    pub(super) fn new(config: Arc<Config>) -> Self {
        let window = match config.span {
            Span::Calls(capacity) => Window::Calls(CallWindow::new(capacity)),
            Span::Time(_) => Window::Time(Buckets::new()),
        };
        Self { config, phase: AtomicU64::new(0), window, cold: OnceLock::new() }
    }

    #[inline]
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    #[inline]
    pub(super) fn phase(&self) -> Phase {
        Phase::from_word(self.phase.load(Ordering::Acquire))
    }

    pub(super) fn cold(&self) -> &Cold {
        self.cold.get_or_init(|| Box::new(Cold::new()))
    }

    pub(super) fn machine(&self) -> MutexGuard<'_, Machine> {
        lock(&self.cold().machine)
    }

    /// The phase to admit a call in, if the breaker lets every call through.
    #[inline]
    pub(super) fn admit_closed(&self) -> Option<Phase> {
        Some(self.phase()).filter(|phase| phase.lets_all_through())
    }

    /// Decides about a call. A probe's lease begins here.
    #[inline]
    pub(super) fn admit(&self) -> Decision {
        let phase = self.phase();
        match phase.state() {
            State::Closed | State::Disabled => Decision::Admitted { phase },
            State::ForcedOpen => Decision::Rejected(Rejected::default()),
            State::Open => {
                let now = Instant::now();
                match self.still_open(now) {
                    Some(rejected) => Decision::Rejected(rejected),
                    None => self.admit_probe(now),
                }
            }
            State::HalfOpen => self.admit_probe(Instant::now()),
        }
    }

    /// The rejection, while the open time lasts.
    pub(super) fn still_open(&self, now: Instant) -> Option<Rejected> {
        let until = Duration::from_nanos(self.cold().open_until.load(Ordering::Acquire));
        let elapsed = now.saturating_duration_since(self.config.origin);
        let left = until.checked_sub(elapsed).filter(|left| !left.is_zero())?;
        Some(Rejected { retry_after: Some(left), ask_again: now.checked_add(left) })
    }

    /// Decides under the lock, once a lock-free look found the breaker not closed.
    fn admit_probe(&self, now: Instant) -> Decision {
        let mut machine = self.machine();
        let mut effects = Effects::default();
        let decision = self.lease(&mut machine, now, &mut effects);
        drop(machine);
        self.carry_out(effects);
        decision
    }

    pub(super) fn lease(
        &self,
        machine: &mut Machine,
        now: Instant,
        effects: &mut Effects,
    ) -> Decision {
        if self.phase().state() == State::Open && self.still_open(now).is_none() {
            self.change(machine, State::HalfOpen, effects);
            effects.event = Some(Event::HalfOpen);
        }
        if self.phase().state() == State::HalfOpen {
            let progress = machine.round.expire(now, &self.config);
            self.advance(machine, progress, None, now, effects);
        }
        let phase = self.phase();
        match phase.state() {
            State::Closed | State::Disabled => Decision::Admitted { phase },
            State::ForcedOpen => Decision::Rejected(Rejected::default()),
            State::Open => Decision::Rejected(self.still_open(now).unwrap_or_default()),
            State::HalfOpen => match machine.round.lease(now, &self.config) {
                Some(lease) => Decision::Probe { phase, lease },
                None => {
                    let ask_again = machine.round.next_expiry();
                    Decision::Rejected(Rejected { retry_after: None, ask_again })
                }
            },
        }
    }

    /// Turns a fresh decision into that for a call which begins at once.
    #[inline]
    pub(super) fn begin(&self, decision: Decision) -> Decision {
        match decision {
            Decision::Probe { phase, lease } => self.begin_probe(phase, lease),
            decided => decided,
        }
    }

    /// Begins the call of a probe: renews its lease, or takes another if it has run out.
    pub(super) fn begin_probe(&self, phase: Phase, lease: LeaseId) -> Decision {
        let now = Instant::now();
        let mut machine = self.machine();
        let mut effects = Effects::default();
        let current = self.phase() == phase;
        if current {
            let progress = machine.round.expire(now, &self.config);
            self.advance(&mut machine, progress, None, now, &mut effects);
        }
        let current = self.phase() == phase;
        let decision = if current && machine.round.begin(lease, now, &self.config) {
            Decision::Probe { phase, lease }
        } else {
            let decision = self.lease(&mut machine, now, &mut effects);
            if let Decision::Probe { lease, .. } = decision {
                machine.round.begin(lease, now, &self.config);
            }
            decision
        };
        drop(machine);
        self.carry_out(effects);
        decision
    }

    /// Notes that the service is ready for a probe, so that it is the caller who is late from now on.
    pub(super) fn probe_is_ready(&self, phase: Phase, lease: LeaseId) {
        let mut machine = self.machine();
        if self.phase() == phase {
            machine.round.ready(lease);
        }
    }

    /// Notes that the response to a probe began well, so that it is not too late when it goes on for long.
    pub(super) fn probe_is_answering(&self, phase: Phase, lease: LeaseId) {
        let mut machine = self.machine();
        if self.phase() == phase {
            machine.round.answering(lease);
        }
    }

    /// Whether a probe that waits for its service still holds its lease.
    pub(super) fn probe_holds(&self, phase: Phase, lease: LeaseId) -> bool {
        let now = Instant::now();
        let mut machine = self.machine();
        let mut effects = Effects::default();
        if self.phase() == phase {
            let progress = machine.round.expire(now, &self.config);
            self.advance(&mut machine, progress, None, now, &mut effects);
        }
        let holds = self.phase() == phase && machine.round.holds(lease);
        drop(machine);
        self.carry_out(effects);
        holds
    }

    /// Counts a call of a closed breaker, and opens it if that was one too many.
    #[inline]
    pub(super) fn record(
        &self,
        phase: Phase,
        sample: Sample,
        hint: Option<Duration>,
        now: Option<Instant>,
    ) {
        if self.phase() != phase || !phase.is_closed() {
            return;
        }
        let generation = phase.generation();
        match &self.window {
            Window::Calls(window) => match window.record(generation, sample) {
                Recorded::Stale => {}
                // Of a dependency that has never failed there is nothing to add up.
                Recorded::AllWell if self.cold.get().is_none() => {}
                Recorded::AllWell => self.weigh(phase, sample, hint, Totals::default()),
                Recorded::NotAllWell => self.weigh(phase, sample, hint, window.totals()),
            },
            Window::Time(calls) => {
                let tick = self.tick(now.unwrap_or_else(Instant::now));
                calls.add(generation, tick);
                if sample.failed || sample.slow || self.cold.get().is_some() {
                    let totals = self.cold().add(calls, generation, tick, sample);
                    self.weigh(phase, sample, hint, totals);
                }
            }
        }
    }

    /// Opens the breaker if what is in its window is reason to.
    #[cold]
    fn weigh(&self, phase: Phase, sample: Sample, hint: Option<Duration>, totals: Totals) {
        let consecutive = self.cold().count_consecutive(sample.failed);
        if let Some(reason) = self.config.trip_reason(totals, consecutive) {
            self.trip(phase, reason, hint);
        }
    }

    pub(super) fn tick(&self, now: Instant) -> Tick {
        Tick::at(now, self.config.origin, self.config.bucket_width)
    }
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreaker")
            .field("name", &self.config.name())
            .field("state", &self.phase().state())
            .finish_non_exhaustive()
    }
}
