//! Tests of responses that are retried: what is left of them is read in the pause.

use std::{
    collections::VecDeque,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    task::Context,
};

use buttress::{
    Deadline, Fault, Outcome,
    completion::{AtEnd, CallEnd, StreamingResponse},
    http::ResponseBody,
    outcome::classify_fn,
    retry::{Backoff, Jitter, ReplayClones},
    stack::slots::Slot,
};
use http::{StatusCode, Version, header};
use http_body::Frame;
use tokio::time::{Instant, advance};

use super::*;

const PAUSE: Duration = Duration::from_millis(50);
/// The most bytes that are read.
const MOST: usize = 64 << 10;

/// A client that retries after a fixed pause, and what its calls hold.
struct Retrying {
    service: Called,
    slots: BulkheadHandle,
    breaker: CircuitBreakerHandle,
    budget: Budget,
    answers: Arc<Mutex<VecDeque<Response<Scripted>>>>,
}

impl Retrying {
    fn new() -> Self {
        Self::pausing(PAUSE)
    }

    fn pausing(pause: Duration) -> Self {
        let (slots, breaker) = (BulkheadLayer::default(), window().build().unwrap());
        let budget = Budget::builder().ratio(0.0).floor(10).build().unwrap();
        let answers = Arc::<Mutex<VecDeque<_>>>::default();
        let source = Arc::clone(&answers);
        let stack = Stack::new().total_timeout(10 * SECOND).retry(retry(pause, &budget));
        let stack = stack.bulkhead(slots.clone()).circuit_breaker(breaker.clone()).http();
        let service = stack.service(service_fn(move |_: Ask| {
            let answer = source.lock().unwrap().pop_front().expect("an answer for each attempt");
            ready(Ok::<_, Infallible>(answer))
        }));
        let service = service.map_response(|response| response.map(BodyExt::boxed_unsync));
        Self {
            service: BoxCloneService::new(service),
            slots: slots.handle(),
            breaker: breaker.handle(),
            budget,
            answers,
        }
    }

    /// Begins a call, whose first attempt gets `first`, and whose second succeeds.
    fn call(&self, first: Response<Scripted>) -> Spawn<Calling> {
        let last = Response::new(Feed::new([Step::Closed]).body());
        self.answers.lock().unwrap().extend([first, last]);
        task::spawn(Box::pin(self.service.clone().oneshot(Ask::default())))
    }

    fn attempts(&self) -> usize {
        2 - self.answers.lock().unwrap().len()
    }
}

type Calling = std::pin::Pin<Box<tower::util::Oneshot<Called, Ask>>>;

fn retry(pause: Duration, budget: &Budget) -> RetryLayer<ReplaySafe> {
    let backoff = Backoff::constant(pause).jitter(Jitter::None).build().unwrap();
    RetryLayer::builder(ReplaySafe::new()).backoff(backoff).budget(budget.clone()).build().unwrap()
}

/// Returns the response of a service that is unavailable.
fn unavailable(feed: &Feed) -> Response<Scripted> {
    respond(StatusCode::SERVICE_UNAVAILABLE, feed)
}

fn respond(status: StatusCode, feed: &Feed) -> Response<Scripted> {
    let mut response = Response::new(feed.body());
    *response.status_mut() = status;
    response
}

fn bytes(len: usize) -> Step {
    Step::Data(Box::leak("x".repeat(len).into_boxed_str()))
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_retried_is_read_after_its_call_has_ended() {
    for last in [Step::End, Step::Fail, Step::Trailers(HeaderMap::new())] {
        let client = Retrying::new();
        let feed = Feed::new([bytes(12 << 10)]);
        let mut call = client.call(unavailable(&feed));
        assert!(call.poll().is_pending());
        assert!(feed.is_drained() && !feed.is_dropped());
        assert_eq!(client.slots.in_flight(), 0);
        let seen = client.breaker.snapshot();
        assert_eq!((seen.calls(), seen.failures()), (1, 1));
        feed.push([last, Step::End]);
        assert!(call.is_woken());
        assert!(call.poll().is_pending());
        assert!(feed.is_dropped());
        // Reading it counts nothing, and does not shorten the pause.
        assert_eq!((client.breaker.snapshot().calls(), client.attempts()), (1, 1));
        advance(PAUSE).await;
        assert!(call.poll().is_ready());
        assert_eq!((client.breaker.snapshot().calls(), client.attempts()), (2, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_end_is_dropped_with_the_pause() {
    for trickles in [true, false] {
        let client = Retrying::new();
        let feed = Feed::default();
        let mut call = client.call(unavailable(&feed));
        let began = Instant::now();
        while began.elapsed() < PAUSE {
            assert!(call.poll().is_pending());
            assert!(!feed.is_dropped());
            if trickles {
                feed.push([Step::Data("x")]);
            }
            advance(MS).await;
        }
        assert!(call.poll().is_ready());
        assert!(feed.is_dropped());
    }
}

#[tokio::test(start_paused = true)]
async fn a_stack_within_the_retrying_one_holds_nothing_while_the_body_is_drained() {
    let feed = Feed::new([Step::Data("x")]);
    let answer = feed.clone();
    let slots = BulkheadLayer::default();
    let service = service_fn(move |_: Ask| ready(Ok::<_, Infallible>(unavailable(&answer))));
    let service = Stack::new().bulkhead(slots.clone()).http().service(service);
    let budget = Budget::new();
    let service = Stack::new().retry(retry(PAUSE, &budget)).http().layer(service);
    let mut call = task::spawn(service.oneshot(Ask::default()));
    assert!(call.poll().is_pending());
    assert!(feed.is_drained() && !feed.is_dropped());
    assert_eq!(slots.handle().in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn limits_of_a_stack_within_the_retrying_one_do_not_end_a_body_that_is_drained() {
    let feed = Feed::new([]);
    let answer = feed.clone();
    let service = service_fn(move |_: Ask| ready(Ok::<_, Infallible>(unavailable(&answer))));
    let client = HttpClientLayer::builder().body_idle(PAUSE / 5).build().unwrap();
    let service = Stack::new().http_client(client).service(service);
    let budget = Budget::new();
    let service = Stack::new().retry(retry(PAUSE, &budget)).http().layer(service);
    let mut call = task::spawn(service.oneshot(Ask::default()));
    assert!(call.poll().is_pending());
    advance(PAUSE / 2).await;
    assert!(!call.is_woken());
    assert!(call.poll().is_pending());
    assert!(!feed.is_dropped());
}

/// A body that always has more, and uses up the budget of the task.
struct Greedy;

impl Body for Greedy {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            let mut budget = pin!(tokio::task::consume_budget());
            if budget.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_uses_up_the_budget_of_the_task_does_not_prolong_the_pause() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&attempts);
    let service = service_fn(move |_: Ask| {
        let mut response = Response::new(Greedy);
        if counted.fetch_add(1, Relaxed) == 0 {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        ready(Ok::<_, Infallible>(response))
    });
    let budget = Budget::new();
    let service = Stack::new().retry(retry(PAUSE, &budget)).http().service(service);
    let call = tokio::spawn(service.oneshot(Ask::default()));
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    advance(PAUSE + MS).await;
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(attempts.load(Relaxed), 2);
    assert!(call.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_response_that_only_the_retry_finds_wrong_is_a_success_of_the_service() {
    let feed = Feed::new([]);
    let answer = feed.clone();
    let breaker = window().build().unwrap();
    let service =
        service_fn(move |_: Ask| ready(Ok::<_, Infallible>(Response::new(answer.body()))));
    let retry = RetryLayer::builder(ReplaySafe::new()).classify_fn(
        |_: Result<&Response<ResponseBody<Scripted>>, &Rejected>| {
            Outcome::Failure(Fault::Transient)
        },
    );
    let stack = Stack::new().retry(retry.build().unwrap()).circuit_breaker(breaker.clone());
    let mut call = task::spawn(stack.http().service(service).oneshot(Ask::default()));
    assert!(call.poll().is_pending());
    assert!(!feed.is_dropped());
    let seen = breaker.handle().snapshot();
    assert_eq!((seen.calls(), seen.failures()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn no_more_than_64_kib_are_read() {
    let client = Retrying::new();
    let half = || bytes(MOST / 2);
    let feed = Feed::new([half(), half()]);
    let mut call = client.call(unavailable(&feed));
    assert!(call.poll().is_pending());
    assert!(feed.is_drained() && !feed.is_dropped(), "the end may follow");
    feed.push([Step::Data("x"), Step::Data("y")]);
    assert!(call.poll().is_pending());
    assert!(!feed.is_drained() && feed.is_dropped());

    let client = Retrying::new();
    let empty = Feed::new(vec![Step::Data(""); MOST + 2]);
    assert!(client.call(unavailable(&empty)).poll().is_pending());
    assert!(!empty.is_drained() && empty.is_dropped(), "frames without data do not end");
}

#[tokio::test(start_paused = true)]
async fn a_response_that_need_not_be_read_is_dropped_unread() {
    let page = || Feed::new([bytes(12 << 10)]);
    let too_long = page().with_size(MOST as u64 + 1);
    let (http2, http10, misdirected, closing) = (page(), page(), page(), page());
    let mut multiplexed = unavailable(&http2);
    *multiplexed.version_mut() = Version::HTTP_2;
    let mut old = unavailable(&http10);
    *old.version_mut() = Version::HTTP_10;
    let mut closes = unavailable(&closing);
    closes.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("x, Close"));
    for (feed, response) in [
        (&too_long, unavailable(&too_long)),
        (&http2, multiplexed),
        (&http10, old),
        (&closing, closes),
        (&misdirected, respond(StatusCode::MISDIRECTED_REQUEST, &misdirected)),
    ] {
        let client = Retrying::new();
        let mut call = client.call(response);
        assert!(call.poll().is_pending());
        assert!(feed.is_dropped() && !feed.is_drained());
        assert_eq!(client.slots.in_flight(), 0);
        advance(PAUSE).await;
        assert!(call.poll().is_ready());
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_without_a_pause_does_not_wait_for_the_body() {
    let client = Retrying::pausing(Duration::from_nanos(1));
    let feed = Feed::new([bytes(12 << 10)]);
    let began = Instant::now();
    assert!(client.call(unavailable(&feed)).await.is_ok());
    assert!(feed.is_drained() && feed.is_dropped());
    assert!(began.elapsed() <= MS);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_in_the_pause_drops_the_body() {
    let client = Retrying::new();
    let feed = Feed::new([Step::Data("x")]);
    let mut call = client.call(unavailable(&feed));
    assert!(call.poll().is_pending());
    assert!(!feed.is_dropped());
    drop(call);
    assert!(feed.is_dropped());
    assert_eq!((client.slots.in_flight(), client.budget.balance()), (0, 10.0));
    assert_eq!(client.breaker.snapshot().calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_panics_while_it_is_drained_leaves_nothing_behind() {
    let client = Retrying::new();
    let feed = Feed::new([Step::Panic, Step::Panic]);
    let mut call = client.call(unavailable(&feed));
    assert!(catch_unwind(AssertUnwindSafe(|| call.poll())).is_err());
    assert!(feed.is_dropped());
    assert_eq!(client.slots.in_flight(), 0);
    let seen = client.breaker.snapshot();
    assert_eq!((seen.calls(), seen.failures()), (1, 1));
    // A further poll does not reach the body.
    assert!(call.poll().is_pending());
    drop(call);
    assert_eq!(client.budget.balance(), 10.0);
}

#[tokio::test(start_paused = true)]
async fn the_values_of_the_call_are_ambient_while_its_body_is_drained() {
    let client = Retrying::new();
    let feed = Feed::new([Step::Data("x")]);
    let total = Deadline::after(10 * SECOND);
    let mut call = client.call(unavailable(&feed));
    assert!(call.poll().is_pending());
    assert!(feed.is_drained());
    assert_eq!(feed.ambient(), Some((Some(total), Some(1))));
    drop(call);
    assert!(feed.is_dropped());
    assert_eq!(feed.ambient(), Some((Some(total), Some(1))));
}

#[tokio::test(start_paused = true)]
async fn the_response_of_the_last_attempt_is_returned_unread() {
    let client = Retrying::new();
    let feeds: [Feed; 4] = std::array::from_fn(|_| Feed::new([Step::Data("page"), Step::End]));
    client.answers.lock().unwrap().extend(feeds.iter().map(unavailable));
    let response = client.service.clone().oneshot(Ask::default()).await.unwrap();
    let drained = feeds.each_ref().map(|feed| (feed.is_drained(), feed.is_dropped()));
    assert_eq!(drained, [(true, true), (true, true), (true, true), (false, false)]);
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "page");
}

/// A response of another kind, which is drained in any number of polls.
struct Rows {
    left: Arc<Mutex<usize>>,
    end: CallEnd,
}

impl StreamingResponse for Rows {
    fn call_end(&mut self) -> Option<&mut CallEnd> {
        Some(&mut self.end)
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut left = self.left.lock().unwrap();
        *left = left.saturating_sub(1);
        cx.waker().wake_by_ref();
        if *left == 0 { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[tokio::test(start_paused = true)]
async fn any_streaming_response_can_be_drained_but_holds_nothing_meanwhile() {
    let left = Arc::new(Mutex::new(3));
    let rows = Arc::clone(&left);
    let answer = move || Rows { left: Arc::clone(&rows), end: CallEnd::new() };
    let service = service_fn(move |()| ready(Ok::<_, Rejected>(answer())));
    let slots = BulkheadLayer::default();
    let classifier =
        Arc::new(classify_fn(|_: Result<&Rows, &Rejected>| Outcome::Failure(Fault::Transient)));
    let service = Slot::<_, _, AtEnd>::wrap(&slots, service, &classifier);
    let backoff = Backoff::constant(PAUSE).jitter(Jitter::None).build().unwrap();
    let retry = RetryLayer::builder(ReplayClones).backoff(backoff).build().unwrap();
    let service = Slot::<_, _, AtEnd>::wrap(&retry, service, &classifier);
    let mut call = task::spawn(service.oneshot(()));
    for expected in [2, 1, 0, 0] {
        assert!(call.poll().is_pending());
        assert_eq!((*left.lock().unwrap(), slots.handle().in_flight()), (expected, 0));
    }
}
