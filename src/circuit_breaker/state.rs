//! The breaker itself: its states, when it changes them, and whom it lets through.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    task::Waker,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    events,
    half_open::{LeaseId, Progress, Round},
    layer::Config,
    window::{Buckets, CallWindow, Recorded, Sample, Span, Tick, Totals, nanos},
};
use crate::call::{
    lock::lock,
    random::{between, draw},
    waiters::{Key, Waiters},
};

/// The state of a circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Calls go through and are counted.
    Closed,
    /// Calls are refused until the open time is over.
    Open,
    /// A few calls go through as probes; the others are refused.
    HalfOpen,
    /// An operator holds the breaker open.
    ForcedOpen,
    /// An operator has taken the breaker out: calls go through and are not counted.
    Disabled,
}

/// Why a breaker opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TripReason {
    /// Too large a share of the calls failed.
    FailureRate,
    /// Too large a share of the calls was slow.
    SlowCallRate,
    /// Too many calls failed one after the other.
    ConsecutiveFailures,
    /// The probes of a half-open breaker failed.
    Probes,
    /// An operator opened it.
    Forced,
}

impl TripReason {
    /// A short name for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FailureRate => "failure_rate",
            Self::SlowCallRate => "slow_call_rate",
            Self::ConsecutiveFailures => "consecutive_failures",
            Self::Probes => "probes_failed",
            Self::Forced => "forced",
        }
    }
}

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
    fn lets_all_through(self) -> bool {
        self.0 & 0b111 <= DISABLED
    }

    #[inline]
    fn is_closed(self) -> bool {
        self.0 & 0b111 == CLOSED
    }

    #[inline]
    fn generation(self) -> u64 {
        self.0 >> 3
    }

    fn next(self, state: State) -> Self {
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
pub struct Core {
    config: Arc<Config>,
    phase: AtomicU64,
    window: Window,
    cold: OnceLock<Box<Cold>>,
}

enum Window {
    Calls(CallWindow),
    Time(Buckets),
}

/// What only a breaker needs whose dependency has failed, or that an operator has touched.
struct Cold {
    consecutive_failures: AtomicU32,
    /// The last tick with a failure or a slow call. Without one in the window there is nothing to
    /// add up.
    last_bad: AtomicU64,
    failures: Buckets,
    slow: Buckets,
    /// Nanoseconds from the origin, while the breaker is open.
    open_until: AtomicU64,
    machine: Mutex<Machine>,
}

/// What changes only under the lock.
#[derive(Debug, Default)]
struct Machine {
    round: Round,
    /// Trips since the dependency was last well for as long as it was last kept off.
    trips: u32,
    last_open: Duration,
    closed_at: Option<Instant>,
    opened: u64,
    closed: u64,
    last_trip: Option<TripReason>,
    /// Who waits to be let through.
    waiting: Waiters,
    /// Who wants to know of a change of state.
    watching: Waiters,
}

/// Whether a call may go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Admitted { phase: Phase },
    Probe { phase: Phase, lease: LeaseId },
    Refused(Refusal),
}

/// A refusal and what to expect next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) retry_after: Option<Duration>,
    /// The nearest instant at which the answer could be another without anything happening.
    pub(super) ask_again: Option<Instant>,
}

/// What is left to do when the lock is released: wakers are code of somebody else, and so is
/// whoever listens to events.
#[derive(Default)]
#[must_use]
struct Effects {
    wake: Vec<Waker>,
    event: Option<Event>,
}

enum Event {
    Opened { reason: TripReason, open_for: Option<Duration> },
    HalfOpen,
    Closed,
    Disabled,
}

impl Core {
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
        Phase(self.phase.load(Ordering::Acquire))
    }

    fn cold(&self) -> &Cold {
        self.cold.get_or_init(|| {
            Box::new(Cold {
                consecutive_failures: AtomicU32::new(0),
                last_bad: AtomicU64::new(0),
                failures: Buckets::new(),
                slow: Buckets::new(),
                open_until: AtomicU64::new(0),
                machine: Mutex::default(),
            })
        })
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
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
            State::ForcedOpen => Decision::Refused(Refusal::default()),
            State::Open => {
                let now = Instant::now();
                match self.still_open(now) {
                    Some(refusal) => Decision::Refused(refusal),
                    None => self.admit_probe(now),
                }
            }
            State::HalfOpen => self.admit_probe(Instant::now()),
        }
    }

    /// The refusal, while the open time lasts.
    fn still_open(&self, now: Instant) -> Option<Refusal> {
        let until = Duration::from_nanos(self.cold().open_until.load(Ordering::Acquire));
        let elapsed = now.saturating_duration_since(self.config.origin);
        let left = until.checked_sub(elapsed).filter(|left| !left.is_zero())?;
        Some(Refusal { retry_after: Some(left), ask_again: now.checked_add(left) })
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

    fn lease(&self, machine: &mut Machine, now: Instant, effects: &mut Effects) -> Decision {
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
            State::ForcedOpen => Decision::Refused(Refusal::default()),
            State::Open => Decision::Refused(self.still_open(now).unwrap_or_default()),
            State::HalfOpen => match machine.round.lease(now, &self.config) {
                Some(lease) => Decision::Probe { phase, lease },
                None => {
                    let ask_again = machine.round.next_expiry();
                    Decision::Refused(Refusal { retry_after: None, ask_again })
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
        if let Some(reason) = self.config.verdict(totals, consecutive) {
            self.trip(phase, reason, hint);
        }
    }

    fn tick(&self, now: Instant) -> Tick {
        Tick::at(now, self.config.origin, self.config.bucket_width())
    }

    fn trip(&self, phase: Phase, reason: TripReason, hint: Option<Duration>) {
        let now = Instant::now();
        let mut machine = self.machine();
        let mut effects = Effects::default();
        // Of several results that each were one too many, the first opens the breaker.
        if self.phase() == phase {
            self.open(&mut machine, reason, hint, now, &mut effects);
        }
        drop(machine);
        self.carry_out(effects);
    }

    fn open(
        &self,
        machine: &mut Machine,
        reason: TripReason,
        hint: Option<Duration>,
        now: Instant,
        effects: &mut Effects,
    ) {
        let was_well = reason != TripReason::Probes
            && machine.closed_at.is_none_or(|closed_at| {
                now.saturating_duration_since(closed_at) >= machine.last_open
            });
        machine.trips = if was_well { 1 } else { machine.trips.saturating_add(1) };
        let open_for = self.config.open_time(machine.trips, hint);
        machine.last_open = open_for;
        machine.last_trip = Some(reason);
        let until = now.saturating_duration_since(self.config.origin).saturating_add(open_for);
        self.cold().open_until.store(nanos(until), Ordering::Release);
        self.change(machine, State::Open, effects);
        effects.event = Some(Event::Opened { reason, open_for: Some(open_for) });
    }

    /// Acts on what a round of probes has come to.
    fn advance(
        &self,
        machine: &mut Machine,
        progress: Progress,
        hint: Option<Duration>,
        now: Instant,
        effects: &mut Effects,
    ) {
        match progress {
            Progress::Undecided => {}
            Progress::Passed => {
                machine.closed_at = Some(now);
                self.change(machine, State::Closed, effects);
                effects.event = Some(Event::Closed);
            }
            Progress::Failed => self.open(machine, TripReason::Probes, hint, now, effects),
        }
    }

    /// Changes the state. Everything that the new state needs is there before it is seen.
    fn change(&self, machine: &mut Machine, state: State, effects: &mut Effects) {
        let previous = self.phase();
        let phase = previous.next(state);
        machine.round = Round::begin_after(&machine.round);
        match (state, previous.state()) {
            (State::Open | State::ForcedOpen, State::Open | State::ForcedOpen) => {}
            (State::Open | State::ForcedOpen, _) => machine.opened += 1,
            (State::Closed, State::Closed | State::Disabled) => {}
            (State::Closed, _) => machine.closed += 1,
            (State::HalfOpen | State::Disabled, _) => {}
        }
        if state == State::Closed {
            self.clear_window(phase.generation());
        }
        self.phase.store(phase.0, Ordering::Release);
        if state == State::Closed {
            // After the phase: a late failure of the one before could else be the first of this one.
            self.cold().consecutive_failures.store(0, Ordering::Release);
        }
        // Who waits for a half-open breaker has no timer for the time that it is open again.
        if state != State::HalfOpen {
            while let Some(waker) = machine.waiting.call_first() {
                effects.wake.push(waker);
            }
        }
        while let Some(waker) = machine.watching.call_first() {
            effects.wake.push(waker);
        }
    }

    fn clear_window(&self, generation: u64) {
        match &self.window {
            Window::Calls(window) => window.reset(generation),
            Window::Time(calls) => calls.reset(generation),
        }
        let cold = self.cold();
        cold.failures.reset(generation);
        cold.slow.reset(generation);
    }

    fn carry_out(&self, effects: Effects) {
        let name = self.config.name();
        match effects.event {
            Some(Event::Opened { reason, open_for }) => {
                events::opened(name, reason, open_for);
            }
            Some(Event::HalfOpen) => events::half_open(name, self.config.probes),
            Some(Event::Closed) => events::closed(name),
            Some(Event::Disabled) => events::disabled(name),
            None => {}
        }
        for waker in effects.wake {
            waker.wake();
        }
    }

    /// Settles a probe: with a verdict, or by giving its slot back.
    pub(super) fn settle_probe(
        &self,
        phase: Phase,
        lease: LeaseId,
        passed: Option<bool>,
        hint: Option<Duration>,
    ) {
        self.end_probe(phase, hint, |round, _, config| round.settle(lease, passed, config));
    }

    /// Accounts for a probe that was dropped.
    pub(super) fn abandon_probe(
        &self,
        phase: Phase,
        lease: LeaseId,
        waited_since: Option<Instant>,
        panicked: bool,
    ) {
        self.end_probe(phase, None, |round, now, config| {
            round.abandon(lease, waited_since, panicked, now, config)
        });
    }

    fn end_probe(
        &self,
        phase: Phase,
        hint: Option<Duration>,
        end: impl FnOnce(&mut Round, Instant, &Config) -> Progress,
    ) {
        let now = Instant::now();
        let mut machine = self.machine();
        let mut effects = Effects::default();
        // A probe of an earlier round has nothing to say about this one.
        if self.phase() == phase {
            // Leases first, so that a result which is late is late whoever looks.
            let progress = match machine.round.expire(now, &self.config) {
                Progress::Undecided => end(&mut machine.round, now, &self.config),
                decided => decided,
            };
            self.advance(&mut machine, progress, hint, now, &mut effects);
            if progress == Progress::Undecided && machine.round.free_slots(&self.config) > 0 {
                // One slot came free, so one waiter can go on.
                effects.wake.extend(machine.waiting.call_first());
            }
        }
        drop(machine);
        self.carry_out(effects);
    }

    /// Changes the state by hand; nothing if it is that already.
    pub(super) fn force(&self, state: State, forget: bool) {
        let now = Instant::now();
        let mut machine = self.machine();
        let mut effects = Effects::default();
        if forget {
            machine.trips = 0;
            machine.last_open = Duration::ZERO;
        }
        let current = self.phase().state();
        if current != state || forget {
            if state == State::ForcedOpen {
                machine.last_trip = Some(TripReason::Forced);
            }
            if state == State::Closed {
                machine.closed_at = Some(now);
            }
            self.change(&mut machine, state, &mut effects);
            effects.event = match state {
                State::Disabled => Some(Event::Disabled),
                State::Closed => (current != State::Closed).then_some(Event::Closed),
                _ => Some(Event::Opened { reason: TripReason::Forced, open_for: None }),
            };
        }
        drop(machine);
        self.carry_out(effects);
    }

    /// What is in the window now.
    pub(super) fn totals(&self) -> Totals {
        if !self.phase().is_closed() {
            // What led to a trip is over, and what comes after is not counted here.
            return Totals::default();
        }
        match &self.window {
            Window::Calls(window) => window.totals(),
            Window::Time(calls) => {
                let tick = self.tick(Instant::now());
                let generation = self.phase().generation();
                match self.cold.get() {
                    Some(cold) => cold.totals(calls, generation, tick),
                    None => Totals { calls: calls.total(generation, tick), ..Totals::default() },
                }
            }
        }
    }

    /// How often it has opened and closed, and how many probes are under way.
    pub(super) fn counters(&self) -> (u64, u64, u32) {
        match self.cold.get() {
            None => (0, 0, 0),
            Some(cold) => {
                let machine = lock(&cold.machine);
                (machine.opened, machine.closed, machine.round.under_way())
            }
        }
    }

    /// Whether an operator holds it open, or has taken it out.
    pub(super) fn is_held(&self) -> bool {
        matches!(self.phase().state(), State::ForcedOpen | State::Disabled)
    }

    /// Why it last opened.
    pub(super) fn last_trip(&self) -> Option<TripReason> {
        self.cold.get().and_then(|cold| lock(&cold.machine).last_trip)
    }

    /// How much of the open time is left.
    pub(super) fn open_time_left(&self) -> Option<Duration> {
        match self.phase().state() {
            State::Open => self.still_open(Instant::now()).and_then(|refusal| refusal.retry_after),
            _ => None,
        }
    }

    /// Has a task woken when a call may go through. It asks after this, or it could miss its turn.
    pub(super) fn wait(&self, place: Option<Key>, waker: Waker) -> Key {
        let (place, outdated) = self.machine().waiting.join(place, waker);
        drop(outdated);
        place
    }

    /// Takes a task off the list. If it was woken and did not go through, the next one is.
    pub(super) fn stop_waiting(&self, place: Key, went_through: bool) {
        let next = {
            let mut machine = self.machine();
            match machine.waiting.remove(place) {
                Ok(()) if !went_through => machine.waiting.call_first().ok_or(None),
                Ok(()) => Err(None),
                Err(outdated) => Err(Some(outdated)),
            }
        };
        if let Ok(waker) = next {
            waker.wake();
        }
    }

    /// Has a task woken at the next change of state. It looks after this, or it could miss one.
    pub(super) fn watch(&self, place: Option<Key>, waker: Waker) -> Key {
        let (place, outdated) = self.machine().watching.join(place, waker);
        drop(outdated);
        place
    }

    pub(super) fn stop_watching(&self, place: Key) {
        let outdated = self.machine().watching.remove(place);
        drop(outdated);
    }
}

impl Cold {
    /// Adds a call, and returns what is in the window if any of it went wrong.
    #[cold]
    fn add(&self, calls: &Buckets, generation: u64, tick: Tick, sample: Sample) -> Totals {
        if sample.failed {
            self.failures.add(generation, tick);
        }
        if sample.slow {
            self.slow.add(generation, tick);
        }
        if sample.failed || sample.slow {
            self.last_bad.fetch_max(tick.as_u64(), Ordering::AcqRel);
        } else if tick.outlived(Tick::from_u64(self.last_bad.load(Ordering::Acquire))) {
            return Totals::default();
        }
        self.totals(calls, generation, tick)
    }

    fn totals(&self, calls: &Buckets, generation: u64, tick: Tick) -> Totals {
        Totals {
            calls: calls.total(generation, tick),
            failures: self.failures.total(generation, tick),
            slow: self.slow.total(generation, tick),
        }
    }

    #[inline]
    fn count_consecutive(&self, failed: bool) -> u32 {
        if failed {
            return self.consecutive_failures.fetch_add(1, Ordering::AcqRel).saturating_add(1);
        }
        // Only written when there is something to forget, for all callers share this word.
        if self.consecutive_failures.load(Ordering::Acquire) != 0 {
            self.consecutive_failures.store(0, Ordering::Release);
        }
        0
    }
}

impl Config {
    /// Whether what is in the window is reason to open.
    fn verdict(&self, totals: Totals, consecutive: u32) -> Option<TripReason> {
        if self.consecutive_failures.is_some_and(|most| consecutive >= most) {
            return Some(TripReason::ConsecutiveFailures);
        }
        if totals.calls < u64::from(self.minimum_calls) || totals.calls == 0 {
            return None;
        }
        let share = |part: u64| part as f64 / totals.calls as f64;
        if self.failure_rate.is_some_and(|rate| share(totals.failures) >= rate) {
            return Some(TripReason::FailureRate);
        }
        if self.slow_calls.is_some_and(|slow| share(totals.slow) >= slow.rate) {
            return Some(TripReason::SlowCallRate);
        }
        None
    }

    /// How long to stay open after so many trips in a row.
    fn open_time(&self, trips: u32, hint: Option<Duration>) -> Duration {
        let exponent = i32::try_from(trips.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = self.open_for.as_secs_f64() * self.open_growth.powi(exponent);
        let grown = Duration::try_from_secs_f64(grown).unwrap_or(self.max_open_for);
        let asked = grown.max(hint.unwrap_or_default()).min(self.max_open_for);
        // Upwards only: the dependency is never asked sooner than it was promised.
        let longest = asked.as_secs_f64() * (1.0 + self.open_jitter);
        let longest = Duration::try_from_secs_f64(longest).unwrap_or(Duration::MAX);
        draw(|rng| between(asked, longest.max(asked), rng))
    }

    /// The length of a bucket in nanoseconds.
    pub(super) fn bucket_width(&self) -> u64 {
        self.bucket_width
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreaker")
            .field("name", &self.config.name())
            .field("state", &self.phase().state())
            .finish_non_exhaustive()
    }
}
