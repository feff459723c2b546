//! Every layer, and the stack of them, dropped at every poll of every wait, and ended by a panic wherever one can
//! come from. Afterwards nothing is held: no slot, no place in a queue, no probe, no token of the budget, no waker.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    pin::Pin,
    sync::Arc,
    sync::atomic::{AtomicU32, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use buttress::{
    Classify, Error, Fault, Outcome, Stack,
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
    /// How often the replay policy was asked: once for each attempt that was sent, but the last of four.
    asked: Option<Arc<AtomicU32>>,
    /// What a retry costs is gone once it is sent.
    retries_sent: Cell<u32>,
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
        let attempts = match &self.asked {
            Some(asked) => asked.swap(0, Ordering::Relaxed),
            None => u32::try_from(inner.calls()).unwrap(),
        };
        self.retries_sent.set(self.retries_sent.get() + attempts.saturating_sub(1));
        if let Some(budget) = &self.budget {
            let left = FLOOR - self.retries_sent.get();
            assert_eq!(budget.balance(), f64::from(left), "balance of the budget");
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

/// A call that is polled with a waker of its own, which says how many copies of it are still held.
struct Watched<'a, F, G> {
    /// Dropped before the call is: a call may be woken and never polled again.
    #[expect(dead_code)]
    last_words: G,
    future: Pin<Box<F>>,
    waker: &'a CountingWaker,
}

impl<F: Future, G: Unpin> Future for Watched<'_, F, G> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<F::Output> {
        let waker = self.waker.waker();
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }
}

fn watched<F: Future, G>(future: F, last_words: G, waker: &CountingWaker) -> Watched<'_, F, G> {
    Watched { last_words, future: Box::pin(future), waker }
}

/// Runs a function when it is dropped.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
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
    let let_go = || {
        let obstacle = in_the_way.take();
        drop(obstacle);
        inner.borrow().set_ready();
        inner.borrow().release();
    };
    let mut polls = 0;
    // Dropped while it waits, and dropped when its turn has come but before it knows.
    for when_called in [false, true] {
        polls = CancelHarness::new(|| {
            let client = client(script());
            inner.replace(client.handle());
            in_the_way.replace(Some(obstacle()));
            ticks.set(0);
            let last_words = when_called.then(|| OnDrop(let_go));
            watched(layer.layer(client).oneshot("request"), last_words, &waker)
        })
        .run_with(
            || {
                ticks.set(ticks.get() + 1);
                if ticks.get() >= 3 {
                    let_go();
                }
                tokio::time::advance(TICK)
            },
            |_| {
                // Before what stood in the way goes, which would wake and forget who waits.
                assert_eq!(waker.holders(), 0, "wakers kept");
                let_go();
                books.assert_settled(&inner.borrow(), &waker);
            },
        )
        .await;
    }
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
async fn half_open<C>(builder: CircuitBreakerBuilder<C>, probes: u32) -> CircuitBreakerLayer<C>
where
    C: Classify<Text, Failure> + 'static,
{
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

    // The only probe is another's. Nobody gives it a verdict, so the breaker stays half-open.
    let no_verdict = breaker().pend().classify_fn(|result: Result<&Text, &Failure>| match result {
        Ok(_) => Outcome::Ignored,
        Err(_) => Outcome::Failure(Fault::Transient),
    });
    let layer = half_open(no_verdict, 1).await;
    let books = Books::of_breaker(layer.handle());
    let obstacle = taken(layer.clone());
    for wait in ["no wait", "inner pending", "inner not ready"] {
        let polls = cancelled_in("Pend, no probe", &layer, &books, &obstacle, wait).await;
        assert!(polls > 3, "nothing waited");
        assert_eq!(layer.handle().state(), State::HalfOpen);
    }
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_stack_leaves_nothing_behind() {
    let asked = Arc::new(AtomicU32::new(0));
    let retry = |budget: &Budget| {
        let asked = Arc::clone(&asked);
        let replay = replay_fn(move |request: &Text| {
            asked.fetch_add(1, Ordering::Relaxed);
            Some(*request)
        });
        RetryLayer::builder(replay).backoff(backoff()).budget(budget.clone()).build().unwrap()
    };
    let attempt = Duration::from_millis(80);
    let books = |bulkhead, breaker: &CircuitBreakerLayer, budget: &Budget| Books {
        bulkhead: Some(bulkhead),
        breaker: Some(breaker.handle()),
        budget: Some(budget.clone()),
        asked: Some(Arc::clone(&asked)),
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

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_a_dropped_waiter_was_given_goes_to_the_next() {
    async fn goes_to_the_next<L>(layer: L)
    where
        L: Layer<Client, Service: Service<Text, Error = Failure> + Clone + 'static>,
        L: Clone + 'static,
    {
        let obstacle = taken(layer.clone())();
        let mut waiters: Vec<_> = (0..3)
            .map(|_| Spawned::new(layer.layer(client(Vec::new())).oneshot("request")))
            .collect();
        assert!(waiters.iter_mut().all(|waiter| waiter.poll().is_pending()));
        drop(obstacle);
        for _ in 0..2 {
            assert!(waiters[0].is_woken());
            assert!(!waiters[1].is_woken(), "one slot woke two");
            drop(waiters.remove(0));
        }
        assert!(waiters[0].is_woken() && waiters[0].poll().is_ready());
    }
    goes_to_the_next(one_at_once().backpressure().build().unwrap()).await;
    goes_to_the_next(one_at_once().queue(3, LIMIT).build().unwrap()).await;
    goes_to_the_next(half_open(breaker().pend(), 1).await).await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn an_answered_call_holds_nothing_though_its_future_is_kept() {
    // By hand: both tower's `oneshot` and the outer layers of a stack drop the future with the answer.
    fn settled<L>(layer: &L, books: &Books)
    where
        L: Layer<Client, Service: Service<Text, Response = Text, Error = Failure>>,
    {
        let client = client(Vec::new());
        let inner = client.handle();
        let mut service = SpawnedService::new(layer.layer(client));
        assert!(matches!(service.poll_ready(), Poll::Ready(Ok(()))));
        let mut future = service.call("request");
        assert_eq!(future.poll(), Poll::Ready(Ok("response")));
        books.assert_settled(&inner, &CountingWaker::new());
    }
    let layer = one_at_once().build().unwrap();
    settled(&layer, &Books::of_bulkhead(layer.handle()));
    let layer = one_at_once().queue(1, LIMIT).build().unwrap();
    settled(&layer, &Books::of_bulkhead(layer.handle()));
    let layer = half_open(breaker(), 2).await;
    settled(&layer, &Books::of_breaker(layer.handle()));
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
        watched(layer.layer(client).oneshot("request"), (), &waker)
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
