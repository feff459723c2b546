//! The breaker: its states, the conditions for changing them, and the decision about each call.

use std::{
    fmt,
    sync::{
        Arc, MutexGuard, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    cold::{Cold, Machine, NO_END},
    config::Config,
    effects::{Change, Effects, Hint},
    half_open::LeaseId,
    state::{State, TripReason},
    window::{CallWindow, Recorded, Sample, Span, Totals},
};
use crate::{
    call::{clock, lock::lock, patience::Patience},
    error::Name,
    window::{Buckets, Tick},
};

/// A state and the number of changes that led to it, in one word.
///
/// A call reads it to be admitted. Comparing it also tells a stale result from a current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Phase(u64);

const CLOSED: u64 = 0;
const DISABLED: u64 = 1;
const OPEN: u64 = 2;
const HALF_OPEN: u64 = 3;
const FORCED_OPEN: u64 = 4;

impl Phase {
    /// Returns the phase as a word that a response can hold.
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

    /// Returns `true` if every call is admitted.
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

/// One breaker.
///
/// It is small while its dependency works. The parts that only a failing dependency needs are
/// allocated at the first failure. Therefore a million breakers, one for each host, fit into
/// memory.
pub(crate) struct Breaker {
    pub(super) config: Arc<Config>,
    /// The name of the layer with the description of the breaker's key, if there is one.
    pub(super) label: OnceLock<Box<Label>>,
    pub(super) phase: AtomicU64,
    pub(super) window: Window,
    pub(super) patience: Patience,
    pub(super) cold: OnceLock<Box<Cold>>,
    /// Set once a stack of a key owns the breaker.
    owned: AtomicBool,
    /// Set while a map keeps the breaker for its key.
    pub(super) is_kept: AtomicBool,
}

pub(super) enum Window {
    Calls(CallWindow),
    Time(Buckets),
}

/// The decision about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Admitted { phase: Phase },
    Probe { phase: Phase, lease: LeaseId },
    Rejected(Rejected),
}

impl Decision {
    /// Returns the phase and the lease of an admitted call, or the rejection.
    #[inline]
    pub(super) fn admission(self) -> Result<(Phase, Option<LeaseId>), Rejected> {
        match self {
            Self::Admitted { phase } => Ok((phase, None)),
            Self::Probe { phase, lease } => Ok((phase, Some(lease))),
            Self::Rejected(rejected) => Err(rejected),
        }
    }
}

/// A rejection, and the times at which the decision may change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rejected {
    pub(super) retry_after: Option<Duration>,
    /// The nearest instant at which the decision could change without another event.
    pub(super) ask_again: Option<Instant>,
}

/// The key of a breaker, as the user describes it.
pub(super) struct Label {
    key: Box<str>,
    /// The name of the layer with the key. It is created late, because a stack may name the layer.
    name: OnceLock<Name>,
}

impl Breaker {
    pub(super) fn new(config: Arc<Config>) -> Self {
        let window = match config.span {
            Span::Calls(capacity) => Window::Calls(CallWindow::new(capacity)),
            Span::Time(_) => Window::Time(Buckets::new()),
        };
        Self {
            config,
            label: OnceLock::new(),
            phase: AtomicU64::new(0),
            window,
            patience: Patience::default(),
            cold: OnceLock::new(),
            owned: AtomicBool::new(false),
            is_kept: AtomicBool::new(false),
        }
    }

    /// Returns `true` to the first caller only, who then owns the breaker.
    pub(super) fn claim(&self) -> bool {
        !self.owned.swap(true, Ordering::Relaxed)
    }

    /// Describes the key of the breaker, unless that was done before.
    pub(super) fn describe(&self, key: String) {
        _ = self.label.set(Box::new(Label { key: key.into(), name: OnceLock::new() }));
    }

    #[inline]
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the name for a rejection, if there is one.
    pub(super) fn name(&self) -> Option<Name> {
        let Some(label) = self.label.get() else { return self.config.reporter.name().cloned() };
        let name = || Name::with_part(self.config.reporter.as_str(), &*label.key);
        Some(label.name.get_or_init(name).clone())
    }

    /// Returns the description of the key, if there is one.
    pub(super) fn key(&self) -> Option<&str> {
        self.label.get().map(|label| &*label.key)
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

    /// Returns the phase in which to admit a call, if the breaker admits every call.
    #[inline]
    pub(super) fn admit_closed(&self) -> Option<Phase> {
        Some(self.phase()).filter(|phase| phase.lets_all_through())
    }

    /// Decides about a call. The lease of a probe begins here.
    #[inline]
    pub(super) fn admit(&self) -> Decision {
        let phase = self.phase();
        match phase.state() {
            State::Closed | State::Disabled => Decision::Admitted { phase },
            State::ForcedOpen if self.forced_for_good() => Decision::Rejected(Rejected::default()),
            State::Open | State::ForcedOpen => {
                let now = Instant::now();
                match self.still_open(now) {
                    Some(rejected) => Decision::Rejected(rejected),
                    None => self.admit_probe(now),
                }
            }
            State::HalfOpen => self.admit_probe(Instant::now()),
        }
    }

    /// Returns `true` if a breaker that was opened by hand stays open until it is changed by hand.
    fn forced_for_good(&self) -> bool {
        self.cold().open_until.load(Ordering::Acquire) == NO_END
    }

    /// Returns the rejection, until the open time has elapsed.
    pub(super) fn still_open(&self, now: Instant) -> Option<Rejected> {
        let until = self.cold().open_until.load(Ordering::Acquire);
        if until == NO_END {
            return Some(Rejected::default());
        }
        let until = Duration::from_nanos(until);
        let elapsed = now.saturating_duration_since(self.config.origin);
        let left = until.checked_sub(elapsed).filter(|left| !left.is_zero())?;
        Some(Rejected { retry_after: Some(left), ask_again: now.checked_add(left) })
    }

    /// Decides under the lock, after a lock-free read found that the breaker is not closed.
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
        let is_open = matches!(self.phase().state(), State::Open | State::ForcedOpen);
        if is_open && self.still_open(now).is_none() {
            self.change(machine, State::HalfOpen, now, effects);
            effects.event = Some(Change::HalfOpen);
        }
        if self.phase().state() == State::HalfOpen {
            let progress = machine.round.expire(now, &self.config);
            self.advance(machine, progress, None, now, effects);
        }
        let phase = self.phase();
        match phase.state() {
            State::Closed | State::Disabled => Decision::Admitted { phase },
            State::Open | State::ForcedOpen => {
                Decision::Rejected(self.still_open(now).unwrap_or_default())
            }
            State::HalfOpen => match machine.round.lease(now, &self.config) {
                Some(lease) => Decision::Probe { phase, lease },
                None => {
                    let ask_again = machine.round.next_expiry();
                    Decision::Rejected(Rejected { retry_after: None, ask_again })
                }
            },
        }
    }

    /// Begins the call right after the decision.
    #[inline]
    pub(super) fn begin(&self, decision: Decision) -> Decision {
        match decision {
            Decision::Probe { phase, lease } => self.begin_probe(phase, lease),
            decided => decided,
        }
    }

    /// Begins the call of a probe. Renews its lease, or takes another one if it has expired.
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

    /// Records that the service is ready for a probe.
    ///
    /// If the lease expires now, the caller was too slow and not the service.
    pub(super) fn probe_is_ready(&self, phase: Phase, lease: LeaseId) {
        let mut machine = self.machine();
        if self.phase() == phase {
            machine.round.ready(lease);
        }
    }

    /// Records that the response to a probe began well. It may now outlast its lease.
    pub(super) fn probe_is_answering(&self, phase: Phase, lease: LeaseId) {
        let mut machine = self.machine();
        if self.phase() == phase {
            machine.round.answering(lease);
        }
    }

    /// Returns `true` if a probe that waits for its service still holds its lease.
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

    /// Counts a call of a closed breaker, and opens the breaker if its conditions are met.
    #[inline]
    pub(super) fn record(
        &self,
        phase: Phase,
        sample: Sample,
        hint: Option<Hint>,
        now: Option<Instant>,
    ) {
        if self.phase() != phase || !phase.is_closed() {
            return;
        }
        let generation = phase.generation();
        match &self.window {
            Window::Calls(window) => match window.record(generation, sample) {
                Recorded::Stale => {}
                // There is nothing to add up for a dependency that has never failed.
                Recorded::AllWell if self.cold.get().is_none() => {}
                Recorded::AllWell => self.weigh(phase, sample, hint, Totals::default()),
                Recorded::NotAllWell => self.weigh(phase, sample, hint, window.totals()),
            },
            Window::Time(calls) => {
                let now = now.unwrap_or_else(Instant::now);
                if self.config.reporter.is_of_stack() {
                    clock::share_end(now);
                }
                let tick = self.tick(now);
                calls.add(generation, tick);
                if sample.failed || sample.slow || self.cold.get().is_some() {
                    let totals = self.cold().add(calls, generation, tick, sample);
                    self.weigh(phase, sample, hint, totals);
                }
            }
        }
    }

    /// Opens the breaker if the counts of its window are a reason.
    #[cold]
    fn weigh(&self, phase: Phase, sample: Sample, hint: Option<Hint>, totals: Totals) {
        let cold = self.cold();
        let consecutive = cold.count_consecutive(phase.generation(), sample.failed);
        if sample.failed {
            cold.overloads.note(hint);
        }
        let Some(reason) = self.config.trip_reason(totals, consecutive) else { return };
        let failures = match reason {
            TripReason::FailureRate => totals.failures,
            TripReason::ConsecutiveFailures => consecutive.into(),
            TripReason::SlowCallRate | TripReason::Probes | TripReason::Forced => 0,
        };
        let other = hint.map(|hint| Hint { overload: false, ..hint });
        self.trip(phase, reason, cold.overloads.most_of(failures).or(other));
    }

    pub(super) fn tick(&self, now: Instant) -> Tick {
        Tick::at(now, self.config.origin, self.config.bucket_width)
    }
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreaker")
            .field("name", &self.config.reporter.as_str())
            .field("state", &self.phase().state())
            .finish_non_exhaustive()
    }
}
