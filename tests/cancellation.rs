//! Every layer, and the stack of them, dropped at every poll of every wait, and ended by a panic wherever one can
//! come from. Afterwards nothing is held: no slot, no place in a queue, no probe, no token of the budget, no waker.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    sync::atomic::{AtomicU32, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use buttress::{
    Error, Fault, Outcome, Stack,
    backoff::Backoff,
    budget::Budget,
    bulkhead::{BulkheadBuilder, BulkheadHandle, BulkheadLayer},
    circuit_breaker::{CircuitBreakerBuilder, CircuitBreakerHandle, CircuitBreakerLayer, State},
    retry::{ReplayClones, RetryLayer, replay_fn},
    telemetry::CallSpanLayer,
    testing::{
        Flaky, FlakyHandle, PanicPoint, Step,
        cancel::{CancelHarness, PanicHarness},
        task::{CountingWaker, Spawned, SpawnedService},
    },
    timeout::TimeoutLayer,
};
use tower::{Layer, Service, ServiceExt};

type Text = &'static str;
type Failure = Error<Text>;
type Client = Flaky<Text, Failure>;
type Script = Vec<Step<Text, Failure>>;

const TICK: Duration = Duration::from_millis(10);
const FLOOR: u32 = 1_000;

/// What must be back where it began.
#[derive(Clone, Default)]
struct Books {
    bulkhead: Option<BulkheadHandle>,
    breaker: Option<CircuitBreakerHandle>,
    budget: Option<Budget>,
    /// What a retry costs is gone once it is sent.
    retries_sent: Cell<usize>,
}

impl Books {
    fn of_bulkhead(handle: BulkheadHandle) -> Self {
        Self { bulkhead: Some(handle), ..Self::default() }
    }

    fn of_breaker(handle: CircuitBreakerHandle) -> Self {
        Self { breaker: Some(handle), ..Self::default() }
    }

    fn assert_settled(&self, inner: &FlakyHandle<Text, Failure>, waker: &CountingWaker) {
        assert_eq!(inner.in_flight(), 0, "inner calls in flight");
        assert_eq!(inner.violations(), [], "what tower forbids");
        assert_eq!(waker.holders(), 0, "wakers kept");
        if let Some(bulkhead) = &self.bulkhead {
            assert_eq!((bulkhead.in_flight(), bulkhead.queued()), (0, 0), "slots and queue");
        }
        if let Some(breaker) = &self.breaker {
            assert_eq!(breaker.snapshot().probes(), 0, "probes");
        }
        self.retries_sent.set(self.retries_sent.get() + inner.calls().saturating_sub(1));
        if let Some(budget) = &self.budget {
            let sent = u32::try_from(self.retries_sent.get()).unwrap();
            assert_eq!(budget.balance(), f64::from(FLOOR - sent), "balance of the budget");
        }
    }
}

/// What stands in the way of a call for its first three polls.
type Obstacle<'a> = Box<dyn Fn() -> Box<dyn Any> + 'a>;

fn nothing() -> Obstacle<'static> {
    Box::new(|| Box::new(()))
}

/// A service that has the slot or the lease, and lets go of it when it is dropped.
fn taken<L>(layer: L) -> Obstacle<'static>
where
    L: Layer<Client, Service: Service<Text> + 'static> + 'static,
{
    Box::new(move || {
        let mut service = SpawnedService::<_, Text>::new(layer.layer(client(Vec::new())));
        assert!(matches!(service.poll_ready(), Poll::Ready(Ok(()))));
        Box::new(service)
    })
}

fn client(script: Script) -> Client {
    Flaky::new(script, || Ok("response"))
}

/// Polls with a waker of its own, which says how many copies of it are still held.
fn watched<F: Future>(future: F, waker: &CountingWaker) -> impl Future<Output = F::Output> {
    let mut future = Box::pin(future);
    poll_fn(move |_| {
        let waker = waker.waker();
        Pin::new(&mut future).poll(&mut Context::from_waker(&waker))
    })
}

/// The waits that an inner service can impose, and how often it is called at least in the end.
fn waits() -> Vec<(Text, Script)> {
    let down = || Err(Failure::Service("down"));
    vec![
        ("no wait", vec![]),
        ("inner pending", vec![Step::AnswerWhenReleased(Ok("late"))]),
        ("inner on a timer", vec![Step::AnswerAfter(3 * TICK, Ok("late"))]),
        (
            "inner failing late",
            vec![Step::AnswerWhenReleased(down()), Step::AnswerAfter(TICK, down())],
        ),
        ("inner not ready", vec![Step::Unready]),
        ("readiness failed", vec![Step::FailReadiness(Failure::Service("gone"))]),
        ("backoff", vec![Step::Answer(down()), Step::Answer(down())]),
        ("not ready after the backoff", vec![Step::Answer(down()), Step::Unready]),
        (
            "readiness failed after the backoff",
            vec![Step::Answer(down()), Step::FailReadiness(Failure::Service("gone"))],
        ),
        (
            "second attempt pending",
            vec![Step::Answer(down()), Step::AnswerWhenReleased(Ok("late"))],
        ),
    ]
}

/// Drops calls at every poll of every wait, with an obstacle on top. Returns the most polls that a call took.
async fn cancelled<L>(name: Text, layer: &L, books: &Books, obstacle: &Obstacle<'_>) -> usize
where
    L: Layer<Client, Service: Service<Text, Error = Failure> + Clone>,
{
    let mut most = 0;
    for (wait, _) in waits() {
        most = most.max(cancelled_in(name, layer, books, obstacle, wait).await);
    }
    most
}

async fn cancelled_in<L>(
    name: Text,
    layer: &L,
    books: &Books,
    obstacle: &Obstacle<'_>,
    wait: Text,
) -> usize
where
    L: Layer<Client, Service: Service<Text, Error = Failure> + Clone>,
{
    let script = || {
        let hang = ("hang", vec![Step::Hang, Step::Hang]);
        waits().into_iter().chain([hang]).find(|(name, _)| *name == wait).unwrap().1
    };
    let waker = CountingWaker::new();
    let inner = RefCell::new(client(Vec::new()).handle());
    let in_the_way = RefCell::new(None);
    let ticks = Cell::new(0);
    let polls = CancelHarness::new(|| {
        let client = client(script());
        inner.replace(client.handle());
        in_the_way.replace(Some(obstacle()));
        ticks.set(0);
        watched(layer.layer(client).oneshot("request"), &waker)
    })
    .run_with(
        || {
            ticks.set(ticks.get() + 1);
            if ticks.get() >= 3 {
                in_the_way.take();
                inner.borrow().set_ready();
                inner.borrow().release();
            }
            tokio::time::advance(TICK)
        },
        |_| {
            in_the_way.take();
            books.assert_settled(&inner.borrow(), &waker);
        },
    )
    .await;
    println!("{name:28} {wait:36} {polls:3} polls");
    polls
}

// ===== the layers =====

const LIMIT: Duration = Duration::from_millis(200);

fn backoff() -> Backoff {
    Backoff::constant(Duration::from_millis(25)).build().unwrap()
}

fn budget() -> Budget {
    Budget::new(0.0, FLOOR).unwrap()
}

fn one_at_once() -> BulkheadBuilder {
    BulkheadLayer::builder().max_concurrent(1)
}

/// It does not trip of what happens here.
fn breaker() -> CircuitBreakerBuilder {
    CircuitBreakerLayer::builder().count_window(10_000).minimum_calls(10_000).slow_calls(TICK, 1.0)
}

/// A breaker that is half-open, with so many slots for probes.
async fn half_open(builder: CircuitBreakerBuilder, probes: u32) -> CircuitBreakerLayer {
    let builder = builder.consecutive_failures(1).open_for(TICK).probes(probes);
    let layer = builder.build().unwrap();
    let down = client(vec![Step::Answer(Err(Failure::Service("down")))]);
    assert!(Spawned::new(layer.layer(down).oneshot("request")).poll().is_ready());
    assert_eq!(layer.handle().state(), State::Open);
    tokio::time::advance(2 * TICK).await;
    drop(taken(layer.clone())());
    assert_eq!(layer.handle().state(), State::HalfOpen);
    layer
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn timeouts_leave_nothing_behind() {
    let timeout = TimeoutLayer::new(LIMIT);
    let total = timeout.clone().including_readiness();
    let books = Books::default();
    cancelled("Timeout", &timeout, &books, &nothing()).await;
    cancelled("TotalTimeout", &total, &books, &nothing()).await;
    assert!(cancelled_in("Timeout", &timeout, &books, &nothing(), "hang").await > 20);
    assert!(cancelled_in("TotalTimeout", &total, &books, &nothing(), "hang").await > 20);
    cancelled("CallSpan", &CallSpanLayer::new(), &books, &nothing()).await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_retry_pays_only_for_what_it_sent() {
    let layer = RetryLayer::builder(ReplayClones).backoff(backoff()).budget(budget());
    let layer = layer.build().unwrap();
    let books = Books { budget: layer.budget().cloned(), ..Books::default() };
    let polls = cancelled("Retry", &layer, &books, &nothing()).await;
    assert!(polls > 6, "a call was slept over in {polls} polls");
    assert!(books.retries_sent.get() > 0);
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn bulkheads_give_back_slots_and_places() {
    let layer = one_at_once().build().unwrap();
    let books = Books::of_bulkhead(layer.handle());
    cancelled("Bulkhead", &layer, &books, &nothing()).await;
    cancelled("Bulkhead, full", &layer, &books, &taken(layer.clone())).await;

    let layer = one_at_once().backpressure().build().unwrap();
    let books = Books::of_bulkhead(layer.handle());
    cancelled("Bulkhead backpressure", &layer, &books, &nothing()).await;
    let polls = cancelled("Backpressure, full", &layer, &books, &taken(layer.clone())).await;
    assert!(polls > 4, "nothing waited");

    let layer = one_at_once().queue(2, LIMIT).build().unwrap();
    let books = Books::of_bulkhead(layer.handle());
    cancelled("QueuedBulkhead", &layer, &books, &nothing()).await;
    let polls = cancelled("Queue, full", &layer, &books, &taken(layer.clone())).await;
    assert!(polls > 4, "nothing waited");
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn breakers_give_back_probes() {
    for builder in [breaker(), breaker().time_window(Duration::from_secs(10)), breaker().pend()] {
        let layer = builder.clone().build().unwrap();
        let books = Books::of_breaker(layer.handle());
        cancelled("CircuitBreaker", &layer, &books, &nothing()).await;
        let layer = half_open(builder, 100_000).await;
        let books = Books::of_breaker(layer.handle());
        cancelled("CircuitBreaker half-open", &layer, &books, &nothing()).await;
        assert_eq!(layer.handle().state(), State::HalfOpen);
    }
    let layer = breaker().keyed(|request: &Text| *request).build().unwrap();
    cancelled("KeyedCircuitBreaker", &layer, &Books::default(), &nothing()).await;
    assert_eq!(layer.handle(&"request").unwrap().snapshot().probes(), 0);
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn who_waits_for_a_breaker_leaves_no_trace() {
    struct ForcedOpen(CircuitBreakerHandle);
    impl Drop for ForcedOpen {
        fn drop(&mut self) {
            self.0.reset();
        }
    }
    let layer = breaker().pend().build().unwrap();
    let handle = layer.handle();
    let obstacle: Obstacle<'_> = Box::new(|| {
        handle.force_open();
        Box::new(ForcedOpen(handle.clone()))
    });
    let books = Books::of_breaker(layer.handle());
    let polls = cancelled("Pend, forced open", &layer, &books, &obstacle).await;
    assert!(polls > 4, "nothing waited");

    // The only probe is another's, who gives it back without a verdict.
    for wait in ["no wait", "inner pending", "inner not ready"] {
        let layer = half_open(breaker().pend(), 1).await;
        let books = Books::of_breaker(layer.handle());
        let obstacle = taken(layer.clone());
        let polls = cancelled_in("Pend, no probe", &layer, &books, &obstacle, wait).await;
        assert!(polls > 3, "nothing waited");
    }
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_stack_leaves_nothing_behind() {
    let retry = |budget: &Budget| {
        RetryLayer::builder(ReplayClones).backoff(backoff()).budget(budget.clone()).build().unwrap()
    };
    let attempt = Duration::from_millis(80);
    let books = |bulkhead, breaker: &CircuitBreakerLayer, budget: &Budget| Books {
        bulkhead: Some(bulkhead),
        breaker: Some(breaker.handle()),
        budget: Some(budget.clone()),
        ..Books::default()
    };

    for half in [false, true] {
        let breaker = match half {
            true => half_open(breaker(), 1_000_000).await,
            false => breaker().build().unwrap(),
        };
        let bulkhead = one_at_once().build().unwrap();
        let budget = budget();
        let books = books(bulkhead.handle(), &breaker, &budget);
        let stack = Stack::standard(ReplayClones)
            .total_timeout(LIMIT)
            .attempt_timeout(attempt)
            .retry(retry(&budget))
            .circuit_breaker(breaker)
            .bulkhead(bulkhead.clone());
        cancelled("Stack", &stack, &books, &nothing()).await;
        cancelled("Stack, full", &stack, &books, &taken(bulkhead)).await;
        assert!(cancelled_in("Stack", &stack, &books, &nothing(), "hang").await > 15);
        assert!(books.retries_sent.get() > 0);
    }
    for half in [false, true] {
        let breaker = match half {
            true => half_open(breaker(), 1_000_000).await,
            false => breaker().build().unwrap(),
        };
        let bulkhead = one_at_once().queue(2, LIMIT).build().unwrap();
        let budget = budget();
        let books = books(bulkhead.handle(), &breaker, &budget);
        let stack = Stack::standard(ReplayClones)
            .total_timeout(LIMIT)
            .attempt_timeout(attempt)
            .retry(retry(&budget))
            .circuit_breaker(breaker)
            .bulkhead(bulkhead.clone());
        cancelled("Stack queue", &stack, &books, &nothing()).await;
        let polls = cancelled("Stack queue, full", &stack, &books, &taken(bulkhead)).await;
        assert!(polls > 4, "nothing waited");
        assert!(cancelled_in("Stack queue", &stack, &books, &nothing(), "hang").await > 15);
    }
}

// ===== panics =====

/// Where a call can panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    First(PanicPoint),
    Second(PanicPoint),
    Classifier,
    SecondClassifier,
    Policy,
    SecondPolicy,
    Limit,
    Key,
}

const INNER: [Point; 3] = [
    Point::First(PanicPoint::Readiness),
    Point::First(PanicPoint::Call),
    Point::First(PanicPoint::Poll),
];
const SECOND: [Point; 3] = [
    Point::Second(PanicPoint::Readiness),
    Point::Second(PanicPoint::Call),
    Point::Second(PanicPoint::Poll),
];

/// User code that panics the so-manieth time that it is run from now on.
#[derive(Clone, Default)]
struct Fuse(Arc<AtomicU32>);

impl Fuse {
    fn set(&self, runs: u32) {
        self.0.store(runs, Ordering::Relaxed);
    }

    fn burn(&self) {
        let left = self.0.load(Ordering::Relaxed);
        self.0.store(left.saturating_sub(1), Ordering::Relaxed);
        assert!(left != 1, "panic of user code");
    }
}

#[derive(Clone, Default)]
struct Fuses {
    classifier: Fuse,
    policy: Fuse,
    limit: Fuse,
    key: Fuse,
}

impl Fuses {
    /// Sets the one, and returns what the inner service does.
    fn arm(&self, point: Point) -> Script {
        let down = || Step::Answer(Err(Failure::Service("down")));
        match point {
            Point::First(point) => return vec![point.step()],
            Point::Second(point) => return vec![down(), point.step()],
            Point::Classifier => self.classifier.set(1),
            Point::SecondClassifier => self.classifier.set(2),
            Point::Policy => self.policy.set(1),
            Point::SecondPolicy => self.policy.set(2),
            Point::Limit => self.limit.set(1),
            Point::Key => self.key.set(1),
        }
        vec![down(), down()]
    }

    fn verdict(&self) -> impl Fn(Result<&Text, &Failure>) -> Outcome + Clone + use<> {
        let fuse = self.classifier.clone();
        move |result| {
            fuse.burn();
            match result {
                Ok(_) => Outcome::Success,
                Err(_) => Outcome::Failure(Fault::Transient),
            }
        }
    }

    fn policy(&self) -> impl Fn(&Text) -> Option<Text> + use<> {
        let fuse = self.policy.clone();
        move |request| {
            fuse.burn();
            Some(*request)
        }
    }

    fn limit(&self) -> impl Fn(&Text) -> Duration + Clone + use<> {
        let fuse = self.limit.clone();
        move |_| {
            fuse.burn();
            LIMIT
        }
    }
}

async fn panicking<L>(layer: &L, fuses: &Fuses, books: &Books, points: &[Point])
where
    L: Layer<Client, Service: Service<Text, Response = Text, Error = Failure> + Clone>,
{
    let waker = CountingWaker::new();
    let inner = RefCell::new(client(Vec::new()).handle());
    PanicHarness::new(points.iter().copied(), |point| {
        let client = client(fuses.arm(point));
        inner.replace(client.handle());
        watched(layer.layer(client).oneshot("request"), &waker)
    })
    .run_with(
        || tokio::time::advance(TICK),
        |point| {
            // An attempt that panicked in `call` was sent; one that was not ready was not.
            books.assert_settled(&inner.borrow(), &waker);
            let mut sibling = Spawned::new(layer.layer(client(Vec::new())).oneshot("request"));
            assert_eq!(sibling.poll(), Poll::Ready(Ok("response")), "a sibling after {point:?}");
        },
    )
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn panics_leave_nothing_behind() {
    let fuses = Fuses::default();
    let none = Books::default();
    let with = |points: &[Point]| [&INNER, points].concat();
    let verdict = || fuses.verdict();

    let timeout = || TimeoutLayer::per_request(fuses.limit());
    panicking(&timeout(), &fuses, &none, &with(&[Point::Limit])).await;
    panicking(&timeout().including_readiness(), &fuses, &none, &with(&[Point::Limit])).await;
    panicking(&CallSpanLayer::new(), &fuses, &none, &INNER).await;

    for layer in [one_at_once().build().unwrap(), one_at_once().backpressure().build().unwrap()] {
        panicking(&layer, &fuses, &Books::of_bulkhead(layer.handle()), &INNER).await;
    }
    let layer = one_at_once().queue(2, LIMIT).build().unwrap();
    panicking(&layer, &fuses, &Books::of_bulkhead(layer.handle()), &INNER).await;

    let judged = with(&[Point::Classifier]);
    let layer = breaker().classify_fn(verdict()).build().unwrap();
    panicking(&layer, &fuses, &Books::of_breaker(layer.handle()), &judged).await;
    // A panic always counts; what panicked before the call was never let through.
    assert_eq!(layer.handle().snapshot().failures(), 3);
    let probing = half_open(breaker(), 100_000).await;
    panicking(&probing, &fuses, &Books::of_breaker(probing.handle()), &INNER).await;
    assert_eq!(probing.handle().state(), State::HalfOpen);

    let key = fuses.key.clone();
    let layer = breaker().classify_fn(verdict()).keyed(move |request: &Text| {
        key.burn();
        *request
    });
    let layer = layer.build().unwrap();
    panicking(&layer, &fuses, &none, &with(&[Point::Classifier, Point::Key])).await;
    assert_eq!(layer.handle(&"request").unwrap().snapshot().probes(), 0);

    let again = [
        &INNER[..],
        &SECOND,
        &[Point::Classifier, Point::SecondClassifier, Point::Policy, Point::SecondPolicy],
    ]
    .concat();
    let retry = |budget: &Budget| {
        let layer = RetryLayer::builder(replay_fn(fuses.policy())).backoff(backoff());
        layer.budget(budget.clone())
    };
    let balance = budget();
    let layer = retry(&balance).classify_fn(verdict()).build().unwrap();
    let books = Books { budget: Some(balance), ..Books::default() };
    panicking(&layer, &fuses, &books, &again).await;

    for half in [false, true] {
        let breaker = match half {
            true => half_open(breaker(), 100_000).await,
            false => breaker().build().unwrap(),
        };
        let bulkhead = one_at_once().queue(2, LIMIT).build().unwrap();
        let balance = budget();
        let books = Books {
            bulkhead: Some(bulkhead.handle()),
            breaker: Some(breaker.handle()),
            budget: Some(balance.clone()),
            ..Books::default()
        };
        let stack = Stack::new()
            .total_timeout(timeout())
            .retry(retry(&balance).build().unwrap())
            .bulkhead(bulkhead)
            .circuit_breaker(breaker)
            .attempt_timeout(LIMIT / 2)
            .classify_fn(verdict());
        let points = [&again[..], &[Point::Limit]].concat();
        panicking(&stack, &fuses, &books, &points).await;
    }
}
