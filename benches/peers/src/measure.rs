//! The rounds, the medians, and the loop that drives every side.

use std::hint::{black_box, spin_loop};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tower::{Service, ServiceExt};

use crate::alloc;
use crate::backend::{Request, Subject};

/// The number of rounds of a case. The medians are over these.
const ROUNDS: usize = 9;
/// The number of turns of a side within a round.
///
/// A slow moment of the machine then affects all sides.
const SLICES: usize = 8;
/// The minimum duration of a turn. A round measures each side for at least 20 ms.
const SLICE: Duration = Duration::from_micros(2_500);

/// The expected result of the calls of a side. A side with another result is set up wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Served,
    Rejected,
}

#[derive(Clone, Copy, Default)]
pub struct Sample {
    nanos: f64,
    calls: u64,
    allocations: u64,
}

impl Sample {
    fn add(&mut self, other: Self) {
        self.nanos += other.nanos;
        self.calls += other.calls;
        self.allocations += other.allocations;
    }

    fn nanos_per_call(&self) -> f64 {
        self.nanos / self.calls as f64
    }
}

/// One side of a comparison, which can run one slice at a time.
pub trait Side {
    fn slice(&mut self) -> Sample;
}

/// Runs the loop: ready, call, await. The code is the same for every side.
async fn drive<S: Service<Request>>(service: &mut S, calls: u64) -> u64 {
    let mut served = 0;
    for id in 0..calls {
        let response = match service.ready().await {
            Ok(ready) => ready.call(black_box(Request(id))).await,
            Err(error) => Err(error),
        };
        served += u64::from(response.is_ok());
        black_box(&response);
    }
    served
}

/// Runs and measures the loop.
fn timed<S: Service<Request>>(
    runtime: &Runtime,
    service: &mut S,
    calls: u64,
    expect: Expect,
) -> Sample {
    runtime.block_on(async {
        let allocations = alloc::allocations();
        let start = Instant::now();
        let served = drive(service, calls).await;
        let nanos = start.elapsed().as_nanos() as f64;
        let allocations = alloc::allocations() - allocations;
        let expected = if expect == Expect::Served { calls } else { 0 };
        assert_eq!(served, expected, "calls answered; this side should be {expect:?}");
        Sample { nanos, calls, allocations }
    })
}

fn new_runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("a current-thread runtime")
}

/// Returns the number of calls in a slice.
///
/// It is doubled until the slice lasts long enough, which also warms up the side.
fn calibrate(mut run: impl FnMut(u64) -> Duration) -> u64 {
    let mut calls = 64;
    while run(calls) < SLICE {
        calls *= 2;
    }
    calls
}

/// A builder of sides with one runtime, so that no side pays for another driver.
pub struct Harness {
    runtime: Rc<Runtime>,
}

impl Harness {
    pub fn new() -> Self {
        Self { runtime: Rc::new(new_runtime()) }
    }

    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Creates a side that makes calls one after the other on a service built once.
    pub fn looped<S: Subject>(&self, expect: Expect, build: impl FnOnce() -> S) -> Box<dyn Side> {
        let mut service = self.build(build);
        let calls = calibrate(|calls| elapsed(timed(&self.runtime, &mut service, calls, expect)));
        Box::new(Looped { runtime: Rc::clone(&self.runtime), service, calls, expect })
    }

    /// Creates a looped side whose breaker always has about `calls` calls in its window.
    ///
    /// The service is rebuilt and refilled, without being measured, before the measured calls
    /// make the window grow by more than a tenth (at least 100 calls).
    pub fn in_window<S: Subject>(
        &self,
        calls: u64,
        build: impl Fn() -> S + 'static,
    ) -> Box<dyn Side> {
        let mut side = InWindow {
            runtime: Rc::clone(&self.runtime),
            build,
            service: None,
            fill: calls,
            used: 0,
        };
        side.slice();
        Box::new(side)
    }

    /// Creates a side with two threads, each with its own runtime and its own clone of one service.
    pub fn contended<S: Subject>(&self, build: impl Fn() -> S + 'static) -> Box<dyn Side> {
        let mut side = Contended { runtime: Rc::clone(&self.runtime), build, calls: 0 };
        side.calls = calibrate(|calls| {
            side.calls = calls;
            elapsed(side.slice())
        });
        Box::new(side)
    }

    /// Opens a breaker with failures, as traffic would, and checks that it is open.
    pub fn opened<S: Subject>(&self, mut service: S) -> S {
        self.runtime.block_on(async {
            for _ in 0..1_000 {
                if let Ok(ready) = service.ready().await {
                    let _ = ready.call(Request::FAILING).await;
                }
            }
            let turned_away = match service.ready().await {
                Ok(ready) => ready.call(Request(0)).await.is_err(),
                Err(_) => true,
            };
            assert!(turned_away, "a thousand failures did not open this breaker");
        });
        service
    }

    /// Makes calls that are not measured.
    pub fn warm<S: Subject>(&self, service: &mut S, calls: u64) {
        timed(&self.runtime, service, calls, Expect::Served);
    }

    /// Builds a service within the runtime, because some peers use the current one.
    fn build<S>(&self, build: impl FnOnce() -> S) -> S {
        let _context = self.runtime.enter();
        build()
    }
}

fn elapsed(sample: Sample) -> Duration {
    Duration::from_nanos(sample.nanos as u64)
}

struct Looped<S> {
    runtime: Rc<Runtime>,
    service: S,
    calls: u64,
    expect: Expect,
}

impl<S: Subject> Side for Looped<S> {
    fn slice(&mut self) -> Sample {
        timed(&self.runtime, &mut self.service, self.calls, self.expect)
    }
}

struct InWindow<S, F> {
    runtime: Rc<Runtime>,
    build: F,
    service: Option<S>,
    fill: u64,
    used: u64,
}

impl<S: Subject, F: Fn() -> S> Side for InWindow<S, F> {
    fn slice(&mut self) -> Sample {
        // Short stretches, because the window must not outgrow its size. Reading the clock twice
        // per 100 calls costs 1 ns per call.
        const STRETCH: u64 = 100;
        let room = (self.fill / 10).max(STRETCH);
        let mut total = Sample::default();
        while elapsed(total) < SLICE {
            if self.used + STRETCH > room {
                self.service = None;
            }
            let service = self.service.get_or_insert_with(|| {
                let _context = self.runtime.enter();
                let mut service = (self.build)();
                timed(&self.runtime, &mut service, self.fill, Expect::Served);
                self.used = 0;
                service
            });
            total.add(timed(&self.runtime, service, STRETCH, Expect::Served));
            self.used += STRETCH;
        }
        total
    }
}

struct Contended<F> {
    runtime: Rc<Runtime>,
    build: F,
    calls: u64,
}

impl<S: Subject, F: Fn() -> S> Side for Contended<F> {
    /// Keeps a slice only if the threads ran in parallel.
    ///
    /// On a busy machine with two cores they often run one after the other. That would report an
    /// uncontended run as a contended one.
    fn slice(&mut self) -> Sample {
        const TRIES: usize = 20;
        let mut last = Sample::default();
        for _ in 0..TRIES {
            let (sample, overlap) = self.side_by_side();
            last = sample;
            if overlap > 0.8 {
                break;
            }
        }
        last
    }
}

impl<S: Subject, F: Fn() -> S> Contended<F> {
    /// Runs both threads on a new service, and returns the share of the time in which both ran.
    ///
    /// The service is new so that a window that keeps every call does not grow over the rounds.
    fn side_by_side(&self) -> (Sample, f64) {
        let service = {
            let _context = self.runtime.enter();
            (self.build)()
        };
        let calls = self.calls;
        let ball = AtomicU64::new(0);
        let run = |mut service: S, side: u64| {
            let runtime = new_runtime();
            timed(&runtime, &mut service, 200, Expect::Served);
            rally(&ball, side);
            let start = Instant::now();
            let sample = timed(&runtime, &mut service, calls, Expect::Served);
            (start, Instant::now(), sample.allocations)
        };
        let (one, two) = (service.clone(), service);
        let (a, b) = std::thread::scope(|scope| {
            let other = scope.spawn(|| run(two, 1));
            let mine = run(one, 0);
            (mine, other.join().expect("the second thread"))
        });
        let wall = a.1.max(b.1) - a.0.min(b.0);
        let both = a.1.min(b.1).saturating_duration_since(a.0.max(b.0));
        let sample =
            Sample { nanos: wall.as_nanos() as f64, calls: 2 * calls, allocations: a.2 + b.2 };
        (sample, both.as_secs_f64() / wall.as_secs_f64())
    }
}

/// Passes a ball back and forth between two threads.
///
/// On one core every throw takes a time slice. At the end the scheduler has therefore given each
/// thread its own core, and both see the last throw and start together.
fn rally(ball: &AtomicU64, side: u64) {
    const THROWS: u64 = 200;
    for throw in 0..THROWS {
        if throw % 2 == side {
            ball.store(throw + 1, Ordering::Release);
        } else {
            while ball.load(Ordering::Acquire) <= throw {
                spin_loop();
            }
        }
    }
}

/// The results of a side over the rounds.
pub struct Measured {
    rounds: Vec<f64>,
    pub nanos: f64,
    pub allocations: f64,
}

impl Measured {
    /// Returns the median of the rounds' ratios, in which a slow round cancels out.
    pub fn ratio_to(&self, other: &Self) -> f64 {
        median(self.rounds.iter().zip(&other.rounds).map(|(ours, theirs)| ours / theirs).collect())
    }
}

pub fn interleave(sides: &mut [Box<dyn Side>]) -> Vec<Measured> {
    let mut rounds = vec![Vec::with_capacity(ROUNDS); sides.len()];
    let mut allocations = vec![Sample::default(); sides.len()];
    for _ in 0..ROUNDS {
        let mut totals = vec![Sample::default(); sides.len()];
        for slice in 0..SLICES {
            for turn in 0..sides.len() {
                // Forward and backward, so that no side always runs right after the same neighbour.
                let index = if slice % 2 == 0 { turn } else { sides.len() - 1 - turn };
                totals[index].add(sides[index].slice());
            }
        }
        for (index, total) in totals.iter().enumerate() {
            rounds[index].push(total.nanos_per_call());
            allocations[index].add(*total);
        }
    }
    rounds
        .into_iter()
        .zip(allocations)
        .map(|(rounds, total)| Measured {
            nanos: median(rounds.clone()),
            allocations: total.allocations as f64 / total.calls as f64,
            rounds,
        })
        .collect()
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Returns the nanoseconds of one `step`, for code that is not a service.
pub fn nanos_of<T>(mut step: impl FnMut(u64) -> T) -> f64 {
    const STEPS: u64 = 200_000;
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for index in 0..STEPS {
            black_box(step(black_box(index)));
        }
        rounds.push(start.elapsed().as_nanos() as f64 / STEPS as f64);
    }
    median(rounds)
}
