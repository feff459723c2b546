//! Tests of the windows and of the state machine against naive models of themselves.

use std::{
    collections::VecDeque,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use proptest::{collection::vec, prelude::*};
use tokio::time::{Instant, advance};

use super::{
    State,
    breaker::{Breaker, Decision, Phase},
    cold::Cold,
    config::{Config, Settings},
    half_open::{Dropped, LeaseId},
    window::{CallWindow, Recorded, Sample, Span, Totals},
};
use crate::window::{BUCKETS, Buckets, Tick};

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn sample() -> impl Strategy<Value = Sample> {
    (any::<bool>(), any::<bool>()).prop_map(|(failed, slow)| Sample { failed, slow })
}

/// A step of a test of a window of calls.
#[derive(Clone, Debug)]
enum CallStep {
    Record(Sample),
    /// A result of a generation that ended this many generations ago.
    RecordStale(Sample, u64),
    /// Empties the window for the generation this many later.
    Reset(u64),
}

fn call_step() -> impl Strategy<Value = CallStep> {
    prop_oneof![
        40 => sample().prop_map(CallStep::Record),
        4 => (sample(), 1..4_u64).prop_map(|(sample, age)| CallStep::RecordStale(sample, age)),
        1 => (1..4_u64).prop_map(CallStep::Reset),
    ]
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn a_window_of_calls_holds_the_last_ones(
        capacity in 1..80_u32,
        first_generation in prop_oneof![Just(0), 65_530..65_540_u64, Just((1 << 32) - 2)],
        steps in vec(call_step(), 1..400),
    ) {
        let window = CallWindow::new(capacity);
        let mut generation = first_generation;
        window.reset(generation);
        let mut model = VecDeque::new();
        for step in steps {
            match step {
                CallStep::Record(sample) => {
                    model.push_back(sample);
                    if model.len() > capacity as usize {
                        model.pop_front();
                    }
                    let recorded = window.record(generation, sample);
                    let well = model.iter().all(|sample| !sample.failed && !sample.slow);
                    let expected = if well { Recorded::AllWell } else { Recorded::NotAllWell };
                    prop_assert_eq!(recorded, expected);
                }
                CallStep::RecordStale(sample, age) => {
                    let stale = generation.wrapping_sub(age);
                    prop_assert_eq!(window.record(stale, sample), Recorded::Stale);
                }
                CallStep::Reset(later) => {
                    generation += later;
                    window.reset(generation);
                    model.clear();
                }
            }
            let count = |which: fn(&Sample) -> bool| {
                model.iter().filter(|s| which(s)).count() as u64
            };
            let expected = Totals {
                calls: model.len() as u64,
                failures: count(|sample| sample.failed),
                slow: count(|sample| sample.slow),
            };
            prop_assert_eq!(window.totals(), expected);
        }
    }
}

#[test]
fn a_window_of_calls_is_consistent_after_many_threads_have_written_to_it() {
    const CALLS: usize = if cfg!(miri) { 200 } else { 100_000 };
    for capacity in [1, 2, 7, 24, 25, 100, 1_000] {
        for resets in [false, true] {
            let window = CallWindow::new(capacity);
            let generation = AtomicU64::new(0);
            thread::scope(|scope| {
                for thread in 0..4_usize {
                    let (window, generation) = (&window, &generation);
                    scope.spawn(move || {
                        for call in 0..CALLS / capacity.min(10) as usize {
                            let bits = call.wrapping_mul(0x9E37_79B9).wrapping_add(thread) >> 7;
                            let sample = Sample { failed: bits & 1 != 0, slow: bits & 2 != 0 };
                            window.record(generation.load(Ordering::Acquire), sample);
                            // Only one thread resets, as it does under the lock.
                            if resets && thread == 0 && call % 1_000 == 999 {
                                let next = generation.load(Ordering::Relaxed) + 1;
                                window.reset(next);
                                generation.store(next, Ordering::Release);
                            }
                        }
                    });
                }
            });
            // Whatever bits are left, the counts must agree with them.
            let generation = generation.into_inner();
            let full = u64::from(capacity);
            let fill = |failed, slow| {
                for _ in 0..capacity {
                    window.record(generation, Sample { failed, slow });
                }
                window.totals()
            };
            for _ in 0..2 {
                let all_well = Totals { calls: full, failures: 0, slow: 0 };
                assert_eq!(fill(false, false), all_well, "{capacity} calls, resets: {resets}");
                let all_bad = Totals { calls: full, failures: full, slow: full };
                assert_eq!(fill(true, true), all_bad, "{capacity} calls, resets: {resets}");
            }
        }
    }
}

/// A step of a test of a window of time.
#[derive(Clone, Debug)]
enum TimeStep {
    Add,
    /// Adds a result with a clock reading that is this many ticks old.
    AddLate(u64),
    /// Adds a result of a generation that ended this many generations ago.
    AddStale(u64),
    Pass(u64),
    /// Empties the window for the generation this many later.
    Reset(u64),
}

fn time_step() -> impl Strategy<Value = TimeStep> {
    prop_oneof![
        20 => Just(TimeStep::Add),
        3 => (0..25_u64).prop_map(TimeStep::AddLate),
        3 => (1..250_u64).prop_map(TimeStep::AddStale),
        10 => (0..4_u64).prop_map(TimeStep::Pass),
        3 => (8..13_u64).prop_map(TimeStep::Pass),
        1 => (0..1_u64 << 22).prop_map(TimeStep::Pass),
        // The numbers of the laps start again.
        3 => (0..12_u64, 1..3_u64).prop_map(|(ticks, times)| {
            TimeStep::Pass((times << 24) * BUCKETS as u64 - ticks)
        }),
        1 => (1..300_u64).prop_map(TimeStep::Reset),
    ]
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn a_window_of_time_holds_the_last_ten_ticks(
        first in prop_oneof![Just(0), 0..40_u64, (1 << 24)..(1_u64 << 40)],
        generation in prop_oneof![Just(0), 250..260_u64],
        steps in vec(time_step(), 1..200),
    ) {
        let buckets = Buckets::new();
        buckets.reset(generation);
        let (mut now, mut generation) = (first, generation);
        let mut model: Vec<u64> = Vec::new();
        for step in steps {
            match step {
                TimeStep::Add => {
                    buckets.add(generation, Tick::from_u64(now));
                    model.push(now);
                }
                TimeStep::AddLate(age) => {
                    let late = now.saturating_sub(age);
                    buckets.add(generation, Tick::from_u64(late));
                    model.push(late);
                }
                TimeStep::AddStale(age) => {
                    if let Some(stale) = generation.checked_sub(age) {
                        // At worst it is lost for the generation to which it belongs.
                        buckets.add(stale, Tick::from_u64(now));
                    }
                }
                TimeStep::Pass(ticks) => now += ticks,
                TimeStep::Reset(later) => {
                    generation += later;
                    buckets.reset(generation);
                    model.clear();
                }
            }
            let in_window = |tick: &&u64| now - **tick < BUCKETS as u64;
            let expected = model.iter().filter(in_window).count() as u64;
            prop_assert_eq!(buckets.total(generation, Tick::from_u64(now)), expected);
        }
    }
}

#[test]
fn a_bucket_counts_again_after_any_idle_time() {
    let bits = (1..40).map(|bit| 1_u64 << bit);
    for laps in bits.flat_map(|laps| [laps - 1, laps, laps + 1, laps + laps / 2, laps + 12_345]) {
        let buckets = Buckets::new();
        buckets.add(0, Tick::from_u64(7));
        let now = Tick::from_u64(7 + laps * BUCKETS as u64);
        buckets.add(0, now);
        assert_eq!(buckets.total(0, now), 1, "after {laps} laps");
    }
}

#[test]
fn a_bucket_counts_nothing_that_is_2_to_the_24_laps_old() {
    const LAPS: u64 = (1 << 24) * BUCKETS as u64;
    for written in 0..BUCKETS as u64 {
        for next in 0..BUCKETS as u64 {
            let buckets = Buckets::new();
            buckets.add(0, Tick::from_u64(100 + written));
            // Nobody wrote since, so nothing is there.
            let (at, end) = (Tick::from_u64(100 + LAPS + next), Tick::from_u64(109 + LAPS));
            assert_eq!((buckets.total(0, at), buckets.total(0, end)), (0, 0), "{written}");
            // A result in one bucket does not bring back the others.
            buckets.add(0, at);
            assert_eq!(buckets.total(0, end), 1, "{written} and then {next}");
            // Nor does one that comes late, into a bucket that was passed over.
            buckets.add(0, Tick::from_u64(100 + LAPS));
            assert_eq!(buckets.total(0, end), 2, "{written} and then {next}");
        }
    }
}

#[test]
fn a_result_from_before_a_change_of_state_is_in_no_row_of_failures_of_the_new_phase() {
    let cold = Cold::new();
    assert_eq!([(); 3].map(|()| cold.count_consecutive(0, true)), [1, 2, 3]);
    cold.reset_consecutive(3);
    // It passed the check of its phase, and the breaker closed anew in between.
    assert_eq!(cold.count_consecutive(0, true), 0);
    assert_eq!(cold.count_consecutive(3, true), 1);
    assert_eq!(cold.count_consecutive(0, true), 0);
    // Nor does a success end a row that it does not belong to.
    assert_eq!(cold.count_consecutive(0, false), 0);
    assert_eq!(cold.count_consecutive(3, true), 2);
    assert_eq!(cold.count_consecutive(3, false), 0);
    assert_eq!(cold.count_consecutive(3, true), 1);
}

#[test]
fn a_window_of_time_is_consistent_after_many_threads_have_written_to_it() {
    let buckets = Buckets::new();
    buckets.reset(3);
    let calls = 50_000;
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for call in 0..calls {
                    buckets.add(3, Tick::from_u64(100 + call % BUCKETS as u64));
                }
            });
        }
    });
    let last = 100 + BUCKETS as u64 - 1;
    assert_eq!(buckets.total(3, Tick::from_u64(last)), 4 * calls);
    assert_eq!(buckets.total(3, Tick::from_u64(last + BUCKETS as u64)), 0);
    assert_eq!(buckets.total(4, Tick::from_u64(last)), 0);
}

const WINDOW: u32 = 6;
const MINIMUM: u32 = 4;
const OPEN_FOR: u64 = 10_000;
const MAX_OPEN_FOR: u64 = 40_000;
const LEASE: u64 = 5_000;
const ABANDONED_AFTER: u64 = 2_000;

fn config(probes: u32, probes_to_pass: u32, consecutive_failures: Option<u32>) -> Arc<Config> {
    let config = Arc::new(Settings::default().check().expect("the defaults work"));
    let config = Arc::into_inner(config).expect("nobody else has it");
    Arc::new(Config {
        span: Span::Calls(WINDOW),
        minimum_calls: MINIMUM,
        failure_rate: Some(0.5),
        consecutive_failures,
        open_for: Duration::from_millis(OPEN_FOR),
        max_open_for: Duration::from_millis(MAX_OPEN_FOR),
        open_growth: 2.0,
        open_jitter: 0.0,
        probes,
        probes_to_pass,
        probe_lease: Duration::from_millis(LEASE),
        ..config
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Readying,
    Ready,
    Called,
}

#[derive(Debug)]
struct ModelLease {
    call: u64,
    stage: Stage,
    since: u64,
    end: u64,
}

/// A simple, single-threaded model of the breaker, written from its documentation. Times are in ms.
#[derive(Debug)]
struct Model {
    probes: usize,
    probes_to_pass: usize,
    consecutive_most: Option<u32>,
    state: State,
    generation: u64,
    window: VecDeque<bool>,
    consecutive: u32,
    open_until: u64,
    /// The end of an open time that was set by hand.
    forced_until: Option<u64>,
    trips: u32,
    last_open: u64,
    closed_at: Option<u64>,
    passed: usize,
    failed: usize,
    leases: Vec<ModelLease>,
    opened: u64,
    closed: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Admitted,
    Probe,
    Rejected(Option<u64>),
}

impl Model {
    fn change(&mut self, state: State) {
        let is_open = |state| matches!(state, State::Open | State::ForcedOpen);
        if is_open(state) && !is_open(self.state) {
            self.opened += 1;
        }
        if state == State::Closed && !matches!(self.state, State::Closed | State::Disabled) {
            self.closed += 1;
        }
        self.state = state;
        self.generation += 1;
        (self.passed, self.failed) = (0, 0);
        self.leases.clear();
        if state == State::Closed {
            self.window.clear();
            self.consecutive = 0;
        }
    }

    fn open(&mut self, now: u64, by_probes: bool) {
        let healthy = self.closed_at.is_none_or(|at| now - at >= self.last_open);
        self.trips = if healthy && !by_probes { 1 } else { self.trips + 1 };
        self.last_open = (OPEN_FOR << (self.trips - 1).min(10)).min(MAX_OPEN_FOR);
        self.open_until = now + self.last_open;
        self.change(State::Open);
    }

    /// Ends the round if its outcome is certain.
    fn decide(&mut self, now: u64) {
        if self.passed >= self.probes_to_pass {
            self.closed_at = Some(now);
            self.change(State::Closed);
        } else if self.failed > self.probes - self.probes_to_pass {
            self.open(now, true);
        }
    }

    fn expire(&mut self, now: u64) {
        let expired = |lease: &ModelLease| lease.end <= now;
        let failed = |lease: &&ModelLease| expired(lease) && lease.stage != Stage::Ready;
        self.failed += self.leases.iter().filter(failed).count();
        self.leases.retain(|lease| !expired(lease));
        if self.state == State::HalfOpen {
            self.decide(now);
        }
    }

    fn ask(&mut self, call: u64, now: u64) -> Answer {
        let over = match self.state {
            State::Open => now >= self.open_until,
            State::ForcedOpen => self.forced_until.is_some_and(|until| now >= until),
            _ => false,
        };
        if over {
            self.change(State::HalfOpen);
        }
        self.expire(now);
        match self.state {
            State::Closed | State::Disabled => Answer::Admitted,
            State::ForcedOpen => Answer::Rejected(self.forced_until.map(|until| until - now)),
            State::Open => Answer::Rejected(Some(self.open_until - now)),
            State::HalfOpen if self.passed + self.failed + self.leases.len() < self.probes => {
                let stage = Stage::Readying;
                self.leases.push(ModelLease { call, stage, since: now, end: now + LEASE });
                Answer::Probe
            }
            State::HalfOpen => Answer::Rejected(None),
        }
    }

    fn lease(&mut self, call: u64) -> Option<&mut ModelLease> {
        self.leases.iter_mut().find(|lease| lease.call == call)
    }

    fn ready(&mut self, call: u64, generation: u64, now: u64) {
        if self.generation == generation {
            self.expire(now);
            if let Some(lease) = self.lease(call) {
                lease.stage = Stage::Ready;
            }
        }
    }

    fn begin(&mut self, call: u64, now: u64) -> Answer {
        self.expire(now);
        let answer = match self.lease(call) {
            Some(_) => Answer::Probe,
            None => self.ask(call, now),
        };
        if let Some(lease) = self.lease(call) {
            *lease = ModelLease { call, stage: Stage::Called, since: now, end: now + LEASE };
        }
        answer
    }

    fn end_probe(&mut self, call: u64, generation: u64, now: u64, end: Ending) {
        if self.generation != generation {
            return;
        }
        self.expire(now);
        let Some(index) = self.leases.iter().position(|lease| lease.call == call) else { return };
        let lease = self.leases.remove(index);
        match end {
            Ending::Answered(Some(true)) => self.passed += 1,
            Ending::Answered(Some(false)) => self.failed += 1,
            Ending::Answered(None) => {}
            Ending::Dropped { panicked } => {
                let ran = if lease.stage == Stage::Ready { 0 } else { now - lease.since };
                if panicked || ran >= ABANDONED_AFTER {
                    self.failed += 1;
                }
            }
        }
        self.decide(now);
    }

    fn record(&mut self, generation: u64, failed: bool, now: u64) {
        if self.generation != generation || self.state != State::Closed {
            return;
        }
        self.window.push_back(failed);
        if self.window.len() > WINDOW as usize {
            self.window.pop_front();
        }
        self.consecutive = if failed { self.consecutive + 1 } else { 0 };
        let failures = self.window.iter().filter(|failed| **failed).count();
        let enough = self.window.len() >= MINIMUM as usize;
        let in_a_row = self.consecutive_most.is_some_and(|most| self.consecutive >= most);
        if in_a_row || (enough && failures * 2 >= self.window.len()) {
            self.open(now, false);
        }
    }

    fn force(&mut self, hand: Hand, now: u64) {
        match hand {
            Hand::Opens(time) => {
                let until = time.map(|time| now + time);
                let is_forced = self.state == State::ForcedOpen;
                if !is_forced || self.forced_until.is_some() || until.is_some() {
                    self.forced_until = until;
                    self.change(State::ForcedOpen);
                }
            }
            Hand::Closes { forget } => {
                if forget {
                    (self.trips, self.last_open) = (0, 0);
                }
                if self.state != State::Closed || forget {
                    self.closed_at = Some(now);
                    self.change(State::Closed);
                }
            }
            Hand::Disables if self.state == State::Disabled => {}
            Hand::Disables => self.change(State::Disabled),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Ending {
    /// `None` if the response says nothing.
    Answered(Option<bool>),
    Dropped {
        panicked: bool,
    },
}

/// A change by hand.
#[derive(Clone, Copy, Debug)]
enum Hand {
    /// Opens the breaker, for a time in ms or without an end.
    Opens(Option<u64>),
    Closes {
        forget: bool,
    },
    Disables,
}

#[derive(Clone, Debug)]
enum Step {
    Ask,
    Ready(prop::sample::Index),
    Begin(prop::sample::Index),
    End(prop::sample::Index, Ending),
    Pass(u64),
    Force(Hand),
}

fn step() -> impl Strategy<Value = Step> {
    let ending = prop_oneof![
        4 => Just(Ending::Answered(Some(true))),
        6 => Just(Ending::Answered(Some(false))),
        1 => Just(Ending::Answered(None)),
        2 => Just(Ending::Dropped { panicked: false }),
        1 => Just(Ending::Dropped { panicked: true }),
    ];
    let time = prop_oneof![
        0..3_000_u64,
        Just(LEASE),
        Just(LEASE - 1),
        Just(OPEN_FOR),
        Just(2 * OPEN_FOR),
        0..60_000_u64,
    ];
    let force = prop_oneof![
        Just(Hand::Opens(None)),
        (0..60_000_u64).prop_map(|time| Hand::Opens(Some(time))),
        any::<bool>().prop_map(|forget| Hand::Closes { forget }),
        Just(Hand::Disables),
    ];
    let index = any::<prop::sample::Index>;
    prop_oneof![
        12 => Just(Step::Ask),
        3 => index().prop_map(Step::Ready),
        10 => index().prop_map(Step::Begin),
        10 => (index(), ending).prop_map(|(index, ending)| Step::End(index, ending)),
        6 => time.prop_map(Step::Pass),
        1 => force.prop_map(Step::Force),
    ]
}

/// An admitted call.
#[derive(Debug)]
struct Call {
    id: u64,
    phase: Phase,
    generation: u64,
    lease: Option<LeaseId>,
    begun: bool,
    /// The time at which its lease was taken or renewed.
    since: u64,
}

fn dropped(panicked: bool) -> Dropped {
    let fails_after = Duration::from_millis(ABANDONED_AFTER);
    if panicked { Dropped::Panicked } else { Dropped::Cut { waited_since: None, fails_after } }
}

/// The breaker and its model, side by side.
struct Both {
    core: Breaker,
    model: Model,
    start: Instant,
    calls: Vec<Call>,
    asked: u64,
}

impl Both {
    fn new(probes: u32, probes_to_pass: u32, consecutive_most: Option<u32>) -> Self {
        let model = Model {
            probes: probes as usize,
            probes_to_pass: probes_to_pass as usize,
            consecutive_most,
            state: State::Closed,
            generation: 0,
            window: VecDeque::new(),
            consecutive: 0,
            open_until: 0,
            forced_until: None,
            trips: 0,
            last_open: 0,
            closed_at: None,
            passed: 0,
            failed: 0,
            leases: Vec::new(),
            opened: 0,
            closed: 0,
        };
        let core = Breaker::new(config(probes, probes_to_pass, consecutive_most));
        Self { core, model, start: Instant::now(), calls: Vec::new(), asked: 0 }
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// Compares the decisions of the breaker and the model, and keeps an admitted call.
    fn take(&mut self, id: u64, begun: bool, decision: Decision, expected: Answer) -> bool {
        let since = self.now();
        let (phase, lease, answer) = match decision {
            Decision::Admitted { phase } => (phase, None, Answer::Admitted),
            Decision::Probe { phase, lease } => (phase, Some(lease), Answer::Probe),
            Decision::Rejected(rejected) => {
                let retry_after = rejected.retry_after.map(|left| left.as_millis() as u64);
                assert_eq!(Answer::Rejected(retry_after), expected);
                return false;
            }
        };
        assert_eq!(answer, expected);
        let generation = self.model.generation;
        self.calls.push(Call { id, phase, generation, lease, begun, since });
        true
    }

    fn ask(&mut self) -> bool {
        self.asked += 1;
        let (id, decision) = (self.asked, self.core.admit());
        let expected = self.model.ask(id, self.now());
        self.take(id, false, decision, expected)
    }

    fn begin(&mut self, index: usize) -> bool {
        if self.calls[index].begun {
            return true;
        }
        let Call { id, phase, generation, lease, .. } = self.calls.remove(index);
        match lease {
            None => {
                let decision = if self.core.phase() == phase {
                    Decision::Admitted { phase }
                } else {
                    self.core.begin(self.core.admit())
                };
                let expected = if self.model.generation == generation {
                    Answer::Admitted
                } else {
                    self.model.begin(id, self.now())
                };
                self.take(id, true, decision, expected)
            }
            Some(lease) => {
                let decision = self.core.begin_probe(phase, lease);
                // The service drops the call's previous lease, as this does.
                if decision != (Decision::Probe { phase, lease }) {
                    self.core.abandon_probe(phase, lease, dropped(false));
                }
                let expected = self.model.begin(id, self.now());
                self.take(id, true, decision, expected)
            }
        }
    }

    fn end(&mut self, index: usize, ending: Ending) {
        let Call { id, phase, generation, lease, begun, .. } = self.calls.swap_remove(index);
        let now = self.now();
        // A call that did not begin can only be dropped.
        let ending = if begun { ending } else { Ending::Dropped { panicked: false } };
        match (lease, ending) {
            (Some(lease), Ending::Answered(passed)) => {
                self.core.settle_probe(phase, lease, passed, None);
                self.model.end_probe(id, generation, now, ending);
            }
            (Some(lease), Ending::Dropped { panicked }) => {
                self.core.abandon_probe(phase, lease, dropped(panicked));
                self.model.end_probe(id, generation, now, ending);
            }
            (None, Ending::Answered(Some(well))) => self.record(phase, generation, !well),
            (None, Ending::Dropped { panicked: true }) => self.record(phase, generation, true),
            (None, Ending::Answered(None) | Ending::Dropped { panicked: false }) => {}
        }
    }

    fn record(&mut self, phase: Phase, generation: u64, failed: bool) {
        self.core.record(phase, Sample { failed, slow: false }, None, None);
        let now = self.now();
        self.model.record(generation, failed, now);
    }

    async fn run(&mut self, step: Step) {
        let some = |index: prop::sample::Index, calls: &[Call]| {
            (!calls.is_empty()).then(|| index.index(calls.len()))
        };
        match step {
            Step::Ask => {
                self.ask();
            }
            Step::Ready(index) => {
                let Some(index) = some(index, &self.calls) else { return };
                let Call { id, phase, generation, lease, begun, .. } = self.calls[index];
                // As in the service, only a probe that still holds its lease is polled.
                if let (Some(lease), false) = (lease, begun) {
                    if self.core.probe_holds(phase, lease) {
                        self.core.probe_is_ready(phase, lease);
                    }
                    self.model.ready(id, generation, self.now());
                }
            }
            Step::Begin(index) => {
                if let Some(index) = some(index, &self.calls) {
                    self.begin(index);
                }
            }
            Step::End(index, ending) => {
                if let Some(index) = some(index, &self.calls) {
                    self.end(index, ending);
                }
            }
            Step::Pass(time) => advance(Duration::from_millis(time)).await,
            Step::Force(hand) => {
                match hand {
                    Hand::Opens(time) => self.core.force_open(time.map(Duration::from_millis)),
                    Hand::Closes { forget } => self.core.force_closed(forget),
                    Hand::Disables => self.core.disable(),
                }
                let now = self.now();
                self.model.force(hand, now);
            }
        }
    }

    fn check(&self) {
        let model = &self.model;
        assert_eq!(self.core.phase().state(), model.state);
        let under_way = model.leases.len() as u32;
        assert_eq!(self.core.counters(), (model.opened, model.closed, under_way));
        if model.state == State::Closed {
            let failures = model.window.iter().filter(|failed| **failed).count() as u64;
            let expected = Totals { calls: model.window.len() as u64, failures, slow: 0 };
            assert_eq!(self.core.totals(), expected);
        }
        // Independently of the model, at most the configured number of probes hold a lease.
        let now = self.now();
        let with_a_right = |call: &&Call| {
            call.lease.is_some() && call.phase == self.core.phase() && now < call.since + LEASE
        };
        let probes = self.calls.iter().filter(with_a_right).count();
        assert!(probes <= model.probes, "{probes} probes are under way");
    }

    /// Checks that a dependency that works again gets all calls after a while.
    ///
    /// The state before does not matter.
    async fn check_recovery(&mut self, dropped: bool) {
        if dropped {
            while !self.calls.is_empty() {
                self.end(0, Ending::Dropped { panicked: false });
                self.check();
            }
        }
        if self.model.state == State::ForcedOpen {
            self.run(Step::Force(Hand::Closes { forget: false })).await;
        }
        let mut rejections = 0;
        for _ in 0..self.model.probes + 2 {
            advance(Duration::from_secs(3_600)).await;
            if !self.ask() {
                rejections += 1;
                continue;
            }
            assert!(self.begin(self.calls.len() - 1));
            self.end(self.calls.len() - 1, Ending::Answered(Some(true)));
            self.check();
        }
        // The first call may find that the leases of hung probes have expired.
        assert!(
            rejections <= u32::from(!dropped),
            "{rejections} rejections of a service that is well"
        );
        assert!(matches!(self.core.phase().state(), State::Closed | State::Disabled));
    }
}

fn on_a_paused_clock(test: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().expect("a runtime can be made");
    runtime.block_on(test);
}

proptest! {
    #![proptest_config(cases(1_024))]

    #[test]
    fn the_breaker_does_as_its_model_and_is_never_wedged(
        (probes, probes_to_pass) in (1..5_u32).prop_flat_map(|probes| (Just(probes), 1..=probes)),
        consecutive in prop_oneof![Just(None), (1..4_u32).prop_map(Some)],
        steps in vec(step(), 1..150),
        dropped in any::<bool>(),
    ) {
        on_a_paused_clock(async {
            let mut both = Both::new(probes, probes_to_pass, consecutive);
            for step in steps {
                both.run(step).await;
                both.check();
            }
            both.check_recovery(dropped).await;
        });
    }
}
