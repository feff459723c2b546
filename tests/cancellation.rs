//! Tests of cancellation and panics, over every layer and the stack.
//!
//! A call is dropped at every poll of every wait, and panics at every possible point. Afterwards
//! nothing is held: no slot, no place in a queue, no probe, no token of the budget, no waker.

#[macro_use]
mod layers;

use std::{
    any::Any,
    cell::{Cell, RefCell},
    pin::Pin,
    task::{Context, Poll},
};

use buttress::{
    Fault, Outcome,
    testing::{
        Flaky, FlakyHandle, PanicPoint, Step,
        cancel::{CancelHarness, PanicHarness},
        task::{CountingWaker, Spawned, SpawnedService},
    },
};
use tower::{Layer, Service, ServiceExt};

use self::layers::*;

type Script = Vec<Step<Text, Failure>>;

/// The state that must be the same after a call as before it.
struct Books<'a, L> {
    row: &'a Row<L>,
    /// The number of retries that were sent. Their tokens are spent.
    retries_sent: Cell<u32>,
}

impl<'a, L> Books<'a, L> {
    fn of(row: &'a Row<L>) -> Self {
        Self { row, retries_sent: Cell::new(0) }
    }

    fn assert_settled(&self, inner: &FlakyHandle<Text, Failure>, waker: &CountingWaker) {
        assert_eq!(inner.in_flight(), 0, "inner calls in flight");
        assert_eq!(inner.violations(), [], "what tower forbids");
        assert_eq!(waker.holders(), 0, "wakers kept");
        self.row.assert_idle();
        if let Some(Retries { budget, replay }) = &self.row.retries {
            let attempts = match replay {
                Some(replay) => replay.take(),
                None => u32::try_from(inner.calls()).unwrap(),
            };
            self.retries_sent.set(self.retries_sent.get() + attempts.saturating_sub(1));
            let left = FLOOR - self.retries_sent.get();
            assert_eq!(budget.balance(), f64::from(left), "balance of the budget");
        }
    }
}

/// A closure that creates an obstacle, which lasts for the first three polls of a call.
type Hold<'a> = &'a dyn Fn() -> Box<dyn Any>;

fn nothing() -> Box<dyn Any> {
    Box::new(())
}

fn client(script: Script) -> Client {
    Flaky::new(script, || Ok("response"))
}

/// A call that is polled with its own waker, which counts the copies that are still held.
struct Watched<'a, F, G> {
    /// It is dropped before the call, because a call may be woken and never polled again.
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

/// A value that runs a function when it is dropped.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Returns the waits that an inner service can cause, each with its script.
fn waits() -> Vec<(Text, Script)> {
    let down = || Err(Failure::Service("down"));
    vec![
        ("no wait", vec![]),
        ("inner pending", vec![Step::RespondWhenReleased(Ok("late"))]),
        ("inner on a timer", vec![Step::RespondAfter(3 * TICK, Ok("late"))]),
        (
            "inner failing late",
            vec![Step::RespondWhenReleased(down()), Step::RespondAfter(TICK, down())],
        ),
        ("inner not ready", vec![Step::Unready]),
        ("readiness failed", vec![Step::FailReadiness(Failure::Service("gone"))]),
        ("backoff", vec![Step::Respond(down()), Step::Respond(down())]),
        ("not ready after the backoff", vec![Step::Respond(down()), Step::Unready]),
        (
            "readiness failed after the backoff",
            vec![Step::Respond(down()), Step::FailReadiness(Failure::Service("gone"))],
        ),
        (
            "second attempt pending",
            vec![Step::Respond(down()), Step::RespondWhenReleased(Ok("late"))],
        ),
    ]
}

/// Drops calls at every poll of every wait, behind an obstacle.
///
/// Returns the largest number of polls that a call took.
async fn cancelled<L>(name: &str, books: &Books<'_, L>, hold: Hold<'_>) -> usize
where
    L: Layer<Client, Service: Service<Text, Error = Failure> + Clone>,
{
    let mut most = 0;
    for (wait, _) in waits() {
        most = most.max(cancelled_in(name, books, hold, wait).await);
    }
    most
}

async fn cancelled_in<L>(name: &str, books: &Books<'_, L>, hold: Hold<'_>, wait: Text) -> usize
where
    L: Layer<Client, Service: Service<Text, Error = Failure> + Clone>,
{
    let script = || {
        let hang = ("hang", vec![Step::Hang, Step::Hang, Step::Hang]);
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
    // The call is dropped while it waits, and when its turn has come but before it is polled.
    for when_called in [false, true] {
        polls = CancelHarness::new(|| {
            let client = client(script());
            inner.replace(client.handle());
            in_the_way.replace(Some(hold()));
            ticks.set(0);
            let last_words = when_called.then(|| OnDrop(let_go));
            watched(books.row.layer.layer(client).oneshot("request"), last_words, &waker)
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
                // This is checked while the obstacle is there. Its end would wake and forget the
                // waiters.
                assert_eq!(waker.holders(), 0, "wakers kept");
                let_go();
                books.assert_settled(&inner.borrow(), &waker);
            },
        )
        .await;
    }
    println!("{name:52} {wait:36} {polls:3} polls");
    polls
}

// ===== every layer =====

test_every!(layers, a_dropped_call_leaves_nothing_behind);

async fn a_dropped_call_leaves_nothing_behind<L>(name: Text, make: impl Fn() -> Row<L>)
where
    L: Layer<Client, Service: Service<Text, Error = Failure> + Clone>,
{
    let row = make();
    let books = Books::of(&row);
    let polls = cancelled(name, &books, &nothing).await;
    if row.retries.is_some() {
        assert!(polls > 6, "a call was slept over in {polls} polls");
        assert!(books.retries_sent.get() > 0);
    }
    if let Some(polls) = row.ends_a_hang_after {
        assert!(cancelled_in(name, &books, &nothing, "hang").await > polls);
    }
    for Obstacle { name: obstacle, effect, hold } in &row.obstacles {
        let polls = cancelled(&format!("{name}, {obstacle}"), &books, hold).await;
        match effect {
            Effect::Waits => assert!(polls > 4, "nothing waited"),
            Effect::Rejects(_) => assert_eq!(polls, 1, "something waited"),
        }
    }
}

test_every!(layers, an_answered_call_holds_nothing_though_its_future_is_kept);

async fn an_answered_call_holds_nothing_though_its_future_is_kept<L>(
    _: Text,
    make: impl Fn() -> Row<L>,
) where
    L: Layer<Client, Service: Service<Text, Response = Text, Error = Failure>>,
{
    // The call is made by hand. Both tower's `oneshot` and the outer layers of a stack drop the
    // future together with the response.
    let row = make();
    let client = client(Vec::new());
    let inner = client.handle();
    let mut service = SpawnedService::new(row.layer.layer(client));
    assert!(matches!(service.poll_ready(), Poll::Ready(Ok(()))));
    let mut future = service.call("request");
    assert_eq!(future.poll(), Poll::Ready(Ok("response")));
    Books::of(&row).assert_settled(&inner, &CountingWaker::new());
}

// ===== a breaker that is waited for =====

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn who_waits_for_the_only_probe_leaves_no_trace() {
    // Another caller has the only probe. Its result is ignored, and the breaker stays half-open.
    let no_verdict = breaker().pend().classify_fn(|result: Result<&Text, &Failure>| match result {
        Ok(_) => Outcome::Ignored,
        Err(_) => Outcome::Failure(Fault::Transient),
    });
    let layer = half_open(no_verdict.probes(1));
    let row = Row::new(layer.clone()).breaker(layer.handle(), Effect::Waits);
    let books = Books::of(&row);
    for wait in ["no wait", "inner pending", "inner not ready"] {
        let hold = || Box::new(taken(&layer)) as Box<dyn Any>;
        let polls = cancelled_in("pend, no probe", &books, &hold, wait).await;
        assert!(polls > 3, "nothing waited");
        row.assert_idle();
    }
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_a_dropped_waiter_was_given_goes_to_the_next() {
    async fn goes_to_the_next<L>(layer: L)
    where
        L: Layer<Client, Service: Service<Text, Error = Failure> + Clone + 'static>,
    {
        let obstacle = taken(&layer);
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
    goes_to_the_next(half_open(breaker().pend().probes(1))).await;
}

// ===== panics =====

/// A point at which a call can panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    First(PanicPoint),
    Second(PanicPoint),
    User(UserCode),
    SecondUser(UserCode),
}

impl Point {
    /// Arms the point, and returns the script of the inner service.
    fn arm(self) -> Script {
        let down = || Step::Respond(Err(Failure::Service("down")));
        match self {
            Self::First(point) => return vec![point.step()],
            Self::Second(point) => return vec![down(), point.step()],
            Self::User(code) => arm(code, 1),
            Self::SecondUser(code) => arm(code, 2),
        }
        vec![down(), down()]
    }

    /// Returns the points of a layer.
    ///
    /// A layer that retries also has the points of a second attempt.
    fn of<L>(row: &Row<L>) -> Vec<Self> {
        let mut points: Vec<_> = PanicPoint::ALL.into_iter().map(Self::First).collect();
        points.extend(row.runs.iter().copied().map(Self::User));
        if row.retries.is_some() {
            points.extend(PanicPoint::ALL.into_iter().map(Self::Second));
            let again = |code: &UserCode| matches!(code, UserCode::Classifier | UserCode::Replay);
            points.extend(row.runs.iter().copied().filter(again).map(Self::SecondUser));
        }
        points
    }
}

async fn panicking<L>(row: &Row<L>)
where
    L: Layer<Client, Service: Service<Text, Response = Text, Error = Failure> + Clone>,
{
    let books = Books::of(row);
    let waker = CountingWaker::new();
    let inner = RefCell::new(client(Vec::new()).handle());
    PanicHarness::new(Point::of(row), |point: Point| {
        let client = client(point.arm());
        inner.replace(client.handle());
        watched(row.layer.layer(client).oneshot("request"), (), &waker)
    })
    .run_with(
        || tokio::time::advance(TICK),
        |point| {
            assert!(!disarm(), "the panic was not that of {point:?}");
            // An attempt that panicked in `call` was sent. An attempt that was not ready was not
            // sent.
            books.assert_settled(&inner.borrow(), &waker);
            let client = client(Vec::new());
            let inner = client.handle();
            let mut sibling = Spawned::new(row.layer.layer(client).oneshot("request"));
            assert_eq!(sibling.poll(), Poll::Ready(Ok("response")), "a sibling after {point:?}");
            drop(sibling);
            books.assert_settled(&inner, &waker);
        },
    )
    .await;
}

test_every!(layers, a_panic_leaves_nothing_behind);

async fn a_panic_leaves_nothing_behind<L>(_: Text, make: impl Fn() -> Row<L>)
where
    L: Layer<Client, Service: Service<Text, Response = Text, Error = Failure> + Clone>,
{
    let row = make();
    panicking(&row).await;
    // The row names all user code that its layer runs.
    for code in UserCode::ALL {
        let service = row.layer.layer(client(Point::User(code).arm()));
        if row.runs.contains(&code) {
            disarm();
        } else {
            let _ = service.oneshot("request").await;
            assert!(disarm(), "{code:?} was run");
        }
    }
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_panic_counts_as_a_failure() {
    let layer = breaker().classify(FallibleClassifier).build().unwrap();
    panicking(&Row::new(layer.clone()).runs(&[UserCode::Classifier])).await;
    // A call that panicked before it reached the service was never admitted.
    assert_eq!(layer.handle().snapshot().failures(), 3);
}
