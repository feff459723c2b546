//! Measures the cost that each layer adds to a call.
//!
//! It covers calls that succeed, calls that are rejected, calls of two threads that share the
//! layer, and the effect of the size of a breaker's window.
//!
//! `cargo bench -p micro --bench overhead` takes about a minute. It compares a change with the last
//! run. The absolute times are too high, because this package enables tokio's `test-util`, which
//! puts a lock around the clock. `cargo run --release -p peers` compares the same layers with other
//! crates, without that lock.
//!
//! Every number includes the bare service and the loop that drives it. See `happy/bare`.

use std::{
    fmt,
    future::{Ready, ready},
    hint::black_box,
    sync::Barrier,
    task::{Context, Poll},
    thread,
    time::{Duration, Instant},
};

use buttress::{
    Deadline, Error, Stack,
    bulkhead::BulkheadLayer,
    circuit_breaker::{CircuitBreakerBuilder, CircuitBreakerLayer},
    retry::{Budget, ReplayClones, RetryLayer},
    timeout::TimeoutLayer,
};
use criterion::{BenchmarkId, Criterion};
use tokio::runtime::{Builder, Runtime};
use tower::{Layer, Service, ServiceExt};

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(800))
        .sample_size(30)
        .nresamples(10_000)
        .without_plots()
        .configure_from_args();
    happy(&mut criterion);
    rejected(&mut criterion);
    contended(&mut criterion);
    windows(&mut criterion);
    criterion.final_summary();
}

#[derive(Debug)]
struct Unavailable;

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the service is unavailable")
    }
}

impl std::error::Error for Unavailable {}

type Failure = Error<Unavailable>;

/// A service that responds at once.
#[derive(Clone, Copy, Debug)]
struct Echo;

impl Service<u64> for Echo {
    type Response = u64;
    type Error = Failure;
    type Future = Ready<Result<u64, Failure>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Self::Future {
        ready(Ok(request))
    }
}

/// A service that fails at once.
#[derive(Clone, Copy, Debug)]
struct Broken;

impl Service<u64> for Broken {
    type Response = u64;
    type Error = Failure;
    type Future = Ready<Result<u64, Failure>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: u64) -> Self::Future {
        ready(Err(Error::Service(Unavailable)))
    }
}

fn timeout() -> TimeoutLayer {
    TimeoutLayer::new(Duration::from_secs(5))
}

fn retry() -> RetryLayer<ReplayClones> {
    RetryLayer::new(ReplayClones)
}

fn bulkhead() -> BulkheadLayer {
    BulkheadLayer::default()
}

fn breaker() -> CircuitBreakerBuilder {
    CircuitBreakerLayer::builder()
}

fn last_100_calls() -> CircuitBreakerLayer {
    breaker().count_window(100).build().expect("valid settings")
}

fn last_10_seconds() -> CircuitBreakerLayer {
    breaker().slow_calls(Duration::from_secs(1), 0.5).build().expect("valid settings")
}

/// Returns the standard stack with the given breaker.
fn stack(
    breaker: CircuitBreakerLayer,
) -> impl Service<u64, Response = u64, Error = Failure> + Clone + Send + Sync {
    Stack::standard(ReplayClones).circuit_breaker(breaker).layer(Echo)
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("a runtime")
}

/// Drives every service with the same loop, and returns the number of successful calls.
async fn drive<S: Service<u64>>(service: &mut S, calls: u64) -> u64 {
    let mut answered = 0;
    for id in 0..calls {
        let answer = match service.ready().await {
            Ok(ready) => ready.call(black_box(id)).await,
            Err(error) => Err(error),
        };
        answered += u64::from(answer.is_ok());
        black_box(&answer);
    }
    answered
}

async fn timed<S: Service<u64>>(service: &mut S, calls: u64, answered: u64) -> Duration {
    let start = Instant::now();
    let was = drive(service, calls).await;
    let elapsed = start.elapsed();
    assert_eq!(was, answered, "calls answered, of {calls}");
    elapsed
}

fn happy(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("happy");
    let runtime = &runtime();
    macro_rules! bench {
        ($name:literal, $service:expr) => {
            let mut service = $service;
            group.bench_function($name, |bencher| {
                bencher.iter_custom(|calls| runtime.block_on(timed(&mut service, calls, calls)));
            });
        };
    }
    bench!("bare", Echo);
    bench!("timeout", timeout().layer(Echo));
    bench!("retry", retry().layer(Echo));
    bench!("bulkhead", bulkhead().layer(Echo));
    bench!("breaker, calls", last_100_calls().layer(Echo));
    bench!("breaker, time and slow calls", last_10_seconds().layer(Echo));
    bench!("stack, calls", stack(last_100_calls()));
    bench!("stack, time and slow calls", stack(last_10_seconds()));
}

fn rejected(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("refused");
    let runtime = &runtime();
    macro_rules! bench {
        ($name:literal, $service:expr) => {
            let mut service = $service;
            group.bench_function($name, |bencher| {
                bencher.iter_custom(|calls| runtime.block_on(timed(&mut service, calls, 0)));
            });
        };
    }

    let mut late = timeout().layer(Echo);
    group.bench_function("timeout, too late on entry", |bencher| {
        bencher.iter_custom(|calls| {
            let calls = timed(&mut late, calls, 0);
            let scope = async { Deadline::scope(Deadline::after(Duration::ZERO), calls).await };
            runtime.block_on(scope).expect("what is ready wins over its deadline")
        });
    });

    let nothing = Budget::builder().ratio(0.0).floor(0).build().expect("valid settings");
    let spent = RetryLayer::builder(ReplayClones).budget(nothing).build().expect("valid settings");
    bench!("retry, nothing left in the budget", spent.layer(Broken));

    let full = BulkheadLayer::builder().max_concurrent(1).build().expect("valid settings");
    let mut holder = full.layer(Echo);
    runtime.block_on(async { holder.ready().await.map(drop).expect("the only slot") });
    bench!("bulkhead, full", full.layer(Echo));
    drop(holder);

    let open = last_100_calls();
    open.handle().force_open();
    bench!("breaker, open", open.layer(Echo));
    bench!("stack, open", stack(open));
}

/// Measures wall time divided by the calls of both threads, which is half the time of a call.
fn contended(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("two threads");
    macro_rules! bench {
        ($name:literal, $service:expr) => {
            let service = $service;
            group.bench_function($name, |bencher| {
                bencher.iter_custom(|calls| side_by_side(&service, calls));
            });
        };
    }
    bench!("timeout", timeout().layer(Echo));
    bench!("retry", retry().layer(Echo));
    bench!("bulkhead", bulkhead().layer(Echo));
    bench!("breaker, calls", last_100_calls().layer(Echo));
    bench!("breaker, time and slow calls", last_10_seconds().layer(Echo));
    bench!("stack, calls", stack(last_100_calls()));
    bench!("stack, time and slow calls", stack(last_10_seconds()));
}

fn side_by_side<S>(service: &S, calls: u64) -> Duration
where
    S: Service<u64> + Clone + Send + Sync,
{
    let calls = calls.div_ceil(2);
    let barrier = Barrier::new(2);
    let run = || {
        let (runtime, mut service) = (runtime(), service.clone());
        barrier.wait();
        let start = Instant::now();
        runtime.block_on(timed(&mut service, calls, calls));
        (start, Instant::now())
    };
    let (one, two) = thread::scope(|scope| {
        let two = scope.spawn(run);
        (run(), two.join().expect("the second thread"))
    });
    one.1.max(two.1) - one.0.min(two.0)
}

fn windows(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("window");
    let live = &runtime();
    for calls in [10, 100, 1_000, 10_000] {
        let layer = breaker().count_window(calls).minimum_calls(10).build();
        let mut service = layer.expect("valid settings").layer(Echo);
        live.block_on(drive(&mut service, u64::from(calls)));
        group.bench_function(BenchmarkId::new("of calls", calls), |bencher| {
            bencher.iter_custom(|calls| live.block_on(timed(&mut service, calls, calls)));
        });
    }

    let paused = &Builder::new_current_thread().enable_time().start_paused(true).build();
    let paused = paused.as_ref().expect("a runtime");
    for held in [1_000, 100_000] {
        let mut steady = paused.block_on(async { Steady::new(held).await });
        group.bench_function(BenchmarkId::new("of 10 s, calls in it", held), |bencher| {
            bencher.iter_custom(|calls| paused.block_on(steady.timed(calls)));
        });
    }
}

/// A service whose window of 10 s always holds the same number of calls, up to a tenth more.
///
/// The clock is paused. After every tenth of the calls it advances by a second, which is not
/// measured.
struct Steady<S> {
    service: S,
    tenth: u64,
    done: u64,
}

impl Steady<()> {
    async fn new(held: u64) -> Steady<impl Service<u64>> {
        let mut steady =
            Steady { service: last_10_seconds().layer(Echo), tenth: held / 10, done: 0 };
        steady.timed(held).await;
        steady
    }
}

impl<S: Service<u64>> Steady<S> {
    async fn timed(&mut self, mut calls: u64) -> Duration {
        let mut total = Duration::ZERO;
        while calls > 0 {
            if self.done == self.tenth {
                tokio::time::advance(Duration::from_secs(1)).await;
                self.done = 0;
            }
            let stretch = calls.min(self.tenth - self.done);
            total += timed(&mut self.service, stretch, stretch).await;
            self.done += stretch;
            calls -= stretch;
        }
        total
    }
}
