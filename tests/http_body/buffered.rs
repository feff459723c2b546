//! Tests of bodies that are read before their responses are returned.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
};

use buttress::{
    CarryRejection, Outcome,
    circuit_breaker::State,
    http::{ClientKey, HttpClassifier, HttpStack, UntilEnd},
    outcome::{ClassifyFn, classify_fn},
    timeout::TimeoutLayer,
};
use http::{Method, StatusCode, header};
use tokio::time::{Instant, advance};

use super::*;

const CAP: usize = 8;

type Calling = std::pin::Pin<Box<tower::util::Oneshot<Called, Ask>>>;

/// A client that reads small bodies, and what its calls hold.
struct Client {
    service: Called,
    slots: BulkheadHandle,
    breaker: CircuitBreakerHandle,
    budget: Budget,
    answers: Queue,
}

type Queue = Arc<Mutex<VecDeque<Response<Scripted>>>>;

fn stack(retries: u32, budget: &Budget) -> (HttpStack, BulkheadHandle, CircuitBreakerHandle) {
    let backoff = buttress::retry::Backoff::constant(MS).build().unwrap();
    let retry = RetryLayer::builder(ReplaySafe::new())
        .retries(retries)
        .backoff(backoff)
        .budget(budget.clone())
        .build()
        .unwrap();
    let (slots, breaker) = (BulkheadLayer::default(), window().build().unwrap());
    let (seen, state) = (slots.handle(), breaker.handle());
    let stack = Stack::standard_http().retry(retry).bulkhead(slots).circuit_breaker(breaker);
    (stack, seen, state)
}

fn buffering() -> HttpClientBuilder {
    HttpClientLayer::builder().body_buffer(CAP)
}

/// Makes a client from a stack. It is a macro because the stack can have any type.
macro_rules! client {
    ($retries:expr, $http:expr, |$stack:ident| $changed:expr) => {{
        let budget = Budget::throttle().max_tokens(10).token_ratio(0.5).build().unwrap();
        let ($stack, slots, breaker) = stack($retries, &budget);
        let $stack = $stack.http_client($http.build().unwrap());
        let answers = Queue::default();
        let source = Arc::clone(&answers);
        let service = $changed.service(service_fn(move |_: Ask| {
            let answer = source.lock().unwrap().pop_front().expect("an answer for each attempt");
            ready(Ok::<_, Infallible>(answer))
        }));
        let service = service.map_response(|response| response.map(BodyExt::boxed_unsync));
        Client { service: BoxCloneService::new(service), slots, breaker, budget, answers }
    }};
}

impl Client {
    fn new(retries: u32) -> Self {
        client!(retries, buffering(), |stack| stack)
    }

    /// Begins a call whose attempts get these responses.
    fn begin(
        &self,
        request: Ask,
        answers: impl IntoIterator<Item = Response<Scripted>>,
    ) -> Spawn<Calling> {
        self.answers.lock().unwrap().extend(answers);
        task::spawn(Box::pin(self.service.clone().oneshot(request)))
    }

    /// Begins a GET whose attempts get these bodies.
    fn get<'a>(&self, feeds: impl IntoIterator<Item = &'a Feed>) -> Spawn<Calling> {
        self.begin(Ask::default(), feeds.into_iter().map(|feed| Response::new(feed.body())))
    }

    fn unanswered(&self) -> usize {
        self.answers.lock().unwrap().len()
    }

    fn verdict(&self) -> (u64, u64) {
        (self.breaker.snapshot().calls(), self.breaker.snapshot().failures())
    }
}

fn whole(call: &mut Spawn<Calling>) -> Spawn<Reader> {
    let Poll::Ready(response) = call.poll() else { panic!("no response") };
    task::spawn(response.unwrap().into_body())
}

async fn answered(call: Spawn<Calling>) -> Spawn<Reader> {
    task::spawn(call.into_inner().await.unwrap().into_body())
}

/// Reads a body to its end or its error.
fn rest(reader: &mut Spawn<Reader>) -> Vec<Got> {
    let mut read = Vec::new();
    loop {
        let Poll::Ready(got) = next(reader) else { panic!("pending after {read:?}") };
        let last = matches!(got, Got::End | Got::Broken | Got::TimedOut(..));
        read.push(got);
        if last {
            return read;
        }
    }
}

fn got(text: &'static str) -> Got {
    Got::Data(Bytes::from_static(text.as_bytes()))
}

fn broken() -> Feed {
    Feed::new([Step::Data("two"), Step::Fail]).with_size(8)
}

fn sound() -> Feed {
    Feed::new([Step::Data("two o"), Step::Data("ers"), Step::Closed])
}

type Plain =
    ClassifyFn<fn(Result<&Response<buttress::http::ResponseBody<Scripted>>, &Rejected>) -> Outcome>;

/// A classifier of a user, to which every head is a success.
fn plain() -> Plain {
    classify_fn(|_| Outcome::Success)
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_is_retried_and_counts_as_one_failure() {
    let clients = [
        Client::new(3),
        client!(3, buffering(), |stack| stack.classify(plain())),
        client!(3, buffering(), |stack| stack.classify(HttpClassifier::new())),
    ];
    for client in clients {
        let spans = Spans::start();
        // The length of a compressed or chunked body is not known.
        let broken = Feed::new([Step::Data("two"), Step::Fail]);
        let call = client.get([&broken, &sound()]);
        let mut reader = answered(call).await;
        // Everything has ended before the body is read.
        assert_eq!(client.slots.in_flight(), 0);
        assert_eq!((client.unanswered(), client.verdict()), (0, (2, 1)));
        assert_eq!(client.budget.balance(), 9.5);
        assert_eq!(spans.open(), (0, true));
        let failed = spans::told("attempt", "transient", Some("body"));
        let saved = |name| spans::told(name, "success", None);
        assert_eq!(spans.closed(), [failed, saved("attempt"), saved("call")]);
        assert_eq!(rest(&mut reader), [got("two o"), got("ers"), Got::End]);
        drop(reader);
        assert_eq!((client.slots.in_flight(), client.verdict()), (0, (2, 1)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_at_last_is_returned_as_without_the_buffer() {
    for read in [true, false] {
        let client = Client::new(1);
        let (first, last) = (broken(), broken());
        let mut reader = answered(client.get([&first, &last])).await;
        assert!(first.is_dropped() && last.is_dropped());
        assert_eq!((client.slots.in_flight(), client.verdict()), (0, (2, 2)));
        assert_eq!(client.budget.balance(), 8.0);
        // A proxy must not take the part for the whole.
        assert_eq!(reader.size_hint().exact(), Some(8));
        if read {
            assert_eq!(next(&mut reader), data("two"));
            assert_eq!((reader.is_end_stream(), reader.size_hint().exact()), (false, Some(5)));
            assert_eq!(rest(&mut reader), [Got::Broken]);
            assert!(reader.is_end_stream());
            assert_eq!(next(&mut reader), Poll::Ready(Got::End));
        }
        drop(reader);
        assert_eq!((client.slots.in_flight(), client.verdict()), (0, (2, 2)));
    }
}

#[tokio::test(start_paused = true)]
async fn of_the_hints_in_a_successful_head_only_a_stop_is_about_its_body() {
    for (name, value, unanswered) in
        [("retry-after", "30", 0), ("retry-after", "0", 0), ("x-should-retry", "false", 1)]
    {
        let client = Client::new(3);
        // It says when to ask for the result.
        let mut accepted = Response::new(broken().body());
        *accepted.status_mut() = StatusCode::ACCEPTED;
        accepted.headers_mut().insert(name, HeaderValue::from_static(value));
        let began = Instant::now();
        let answers = [accepted, Response::new(sound().body())];
        drop(answered(client.begin(Ask::default(), answers)).await);
        assert_eq!(client.unanswered(), unanswered, "{name}: {value}");
        assert!(began.elapsed() <= 2 * MS);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_read_is_returned_even_after_the_deadline_of_the_body() {
    for (feed, last) in [(broken(), Got::Broken), (sound(), Got::End)] {
        let client = client!(0, buffering().body_deadline(), |stack| stack);
        let mut reader = answered(client.get([&feed])).await;
        advance(10 * SECOND).await;
        assert_eq!(rest(&mut reader).pop(), Some(last));
    }
}

#[tokio::test(start_paused = true)]
async fn a_layer_around_a_client_that_buffers_retries_too() {
    let source = Queue::default();
    source.lock().unwrap().extend([&broken(), &sound()].map(|feed| Response::new(feed.body())));
    let answers = Arc::clone(&source);
    let client = tower::ServiceBuilder::new()
        .layer(UntilEnd::new(RetryLayer::new(ReplaySafe::new())))
        .layer(TimeoutLayer::new(SECOND))
        .layer(buffering().build().unwrap())
        .map_err(Error::Service)
        .service(service_fn(move |_: Ask| {
            ready(Ok::<_, Infallible>(answers.lock().unwrap().pop_front().unwrap()))
        }));
    let body = client.oneshot(Ask::default()).await.unwrap().into_body();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "two oers");
    assert!(source.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_slot_is_held_while_a_body_is_read_and_not_after_it() {
    let client = Client::new(0);
    let feed = Feed::new([Step::Data("two")]);
    let mut call = client.get([&feed]);
    assert!(call.poll().is_pending());
    assert_eq!((client.slots.in_flight(), client.verdict()), (1, (0, 0)));
    feed.push([Step::Data("three"), Step::End]);
    let mut reader = whole(&mut call);
    assert!(feed.is_dropped());
    assert_eq!((client.slots.in_flight(), client.verdict()), (0, (1, 0)));
    assert_eq!(rest(&mut reader), [got("two"), got("three"), Got::End]);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_body_is_polled_once_for_each_wake_up() {
    let client = Client::new(0);
    let feed = Feed::new([]);
    let mut call = client.get([&feed]);
    assert!(call.poll().is_pending() && !call.is_woken());
    for polls in 1..4 {
        assert_eq!(feed.polls(), 2 * polls - 1);
        // It polls again after a frame, and waits there.
        feed.push([Step::Data("a")]);
        assert!(call.is_woken());
        assert!(call.poll().is_pending() && !call.is_woken());
    }
    feed.push([Step::End]);
    assert!(call.is_woken() && call.poll().is_ready());
    assert_eq!(feed.polls(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_hangs_is_a_timed_out_attempt_and_is_retried() {
    let client = Client::new(1);
    let (hanging, began) = (Feed::new([Step::Data("two")]), Instant::now());
    let mut reader = answered(client.get([&hanging, &sound()])).await;
    // The attempt timeout of a standard stack.
    assert!(hanging.is_dropped() && began.elapsed() - 2 * SECOND <= 2 * MS);
    assert_eq!((client.slots.in_flight(), client.verdict()), (0, (2, 1)));
    assert_eq!(rest(&mut reader).len(), 3);

    // Without a retry, the caller gets the timeout.
    let client = Client::new(0);
    let hanging = Feed::new([Step::Data("two")]);
    let error = client.get([&hanging]).into_inner().await.unwrap_err();
    assert!(
        matches!(error.rejection(), Some(Rejection::TimedOut(late)) if late.limit() == 2 * SECOND)
    );
    assert_eq!((hanging.is_dropped(), client.verdict()), (true, (1, 1)));
}

#[tokio::test(start_paused = true)]
async fn the_total_timeout_ends_a_body_that_is_read() {
    let client = client!(3, buffering(), |stack| stack.total_timeout(SECOND));
    let hanging = Feed::new([Step::Data("two")]);
    let error = client.get([&hanging]).into_inner().await.unwrap_err();
    assert!(matches!(error.rejection(), Some(Rejection::TimedOut(late)) if late.limit() == SECOND));
    assert!(hanging.is_dropped());
    assert_eq!((client.slots.in_flight(), client.unanswered()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_idle_limit_ends_a_body_that_is_read_in_a_stack_without_timeouts() {
    for deadline in [true, false] {
        let http = buffering().body_idle(SECOND);
        let http = if deadline { http.body_deadline() } else { http };
        let none = None::<Duration>;
        let client = client!(0, http, |stack| stack.total_timeout(none).attempt_timeout(none));
        // The limit is for each read.
        let feed = Feed::new([Step::Data("t")]);
        let mut call = client.get([&feed]);
        for _ in 0..4 {
            assert!(call.poll().is_pending());
            advance(SECOND - MS).await;
            assert!(call.poll().is_pending());
            feed.push([Step::Data("w")]);
        }
        assert!(call.poll().is_pending());
        advance(SECOND).await;
        let Poll::Ready(Err(error)) = call.poll() else { panic!("no limit") };
        let Some(Rejection::TimedOut(late)) = error.rejection() else { panic!("{error:?}") };
        assert_eq!((late.name(), late.limit()), ("idle response body", SECOND));
        assert_eq!((feed.is_dropped(), client.verdict()), (true, (1, 1)));
        assert_eq!(client.slots.in_flight(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_too_long_is_streamed_from_its_first_byte() {
    let ends: [(&[Step], &[Got], _); 3] = [
        (&[Step::Data("end"), Step::End], &[got("end"), Got::End], 0),
        (&[Step::Closed], &[Got::End], 0),
        (&[Step::Data("end"), Step::Fail], &[got("end"), Got::Broken], 1),
    ];
    for (steps, expected, failures) in ends {
        let client = Client::new(3);
        let feed = Feed::new([Step::Data("two o"), Step::Data("rders")]);
        let mut reader = whole(&mut client.get([&feed]));
        assert_eq!((client.slots.in_flight(), client.verdict()), (1, (0, 0)));
        assert_eq!(reader.size_hint().lower(), 10);
        assert_eq!(next(&mut reader), data("two o"));
        assert_eq!((reader.size_hint().lower(), reader.is_end_stream()), (5, false));
        assert_eq!(next(&mut reader), data("rders"));
        assert!(next(&mut reader).is_pending());
        feed.push(steps.iter().cloned());
        assert_eq!(rest(&mut reader), expected);
        assert_eq!((client.slots.in_flight(), client.verdict()), (0, (1, failures)));
    }

    // Its reader may leave, and its limits are those of any body.
    let client = Client::new(3);
    let feed = Feed::new([Step::Data("two orders")]);
    drop(whole(&mut client.get([&feed])));
    assert_eq!((client.slots.in_flight(), feed.is_dropped()), (0, true));
    let feed = Feed::new([Step::Data("two orders")]);
    let mut reader = whole(&mut client.get([&feed]));
    assert_eq!(next(&mut reader), data("two orders"));
    assert!(next(&mut reader).is_pending());
    advance(IDLE).await;
    assert_eq!(next(&mut reader), timed_out("idle response body", IDLE));
}

#[tokio::test(start_paused = true)]
async fn a_body_of_exactly_the_cap_is_read_and_one_byte_more_is_not() {
    let client = Client::new(0);
    for (text, read) in [("12345678", true), ("123456789", false)] {
        let feed = Feed::new([Step::Data(text)]);
        let mut call = client.get([&feed]);
        assert_eq!(call.poll().is_pending(), read, "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_of_small_frames_takes_little_memory() {
    let client = client!(0, HttpClientLayer::builder().body_buffer(1 << 20), |stack| stack);
    for step in [Step::Data("a"), Step::Data("")] {
        let feed = Feed::new(vec![step; 10_000]);
        let mut reader = whole(&mut client.get([&feed]));
        // One frame for each 256 bytes, and a few.
        assert_eq!(feed.polls(), (1 << 20) / 256 + 17);
        feed.push([Step::End]);
        assert_eq!(rest(&mut reader).len(), 10_001);
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_that_must_not_wait_is_returned_at_its_head() {
    let respond = |change: fn(&mut Response<Scripted>)| {
        let feed = Feed::new([]);
        let mut response = Response::new(feed.body());
        change(&mut response);
        (feed, response)
    };
    let typed = |kind: &'static str| {
        let (feed, mut response) = respond(|_| ());
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        (feed, response)
    };
    let with_status = |(feed, mut response): (Feed, Response<Scripted>)| {
        response.headers_mut().insert("grpc-status", 0.into());
        (feed, response)
    };
    let long = Feed::new([]).with_size(CAP as u64 + 1);
    let cases = [
        (Method::GET, (long.clone(), Response::new(long.body()))),
        (Method::GET, respond(|it| drop(it.headers_mut().insert("content-length", 9.into())))),
        (Method::GET, typed("text/event-stream")),
        (Method::GET, typed("Text/Event-Stream; charset=utf-8")),
        (Method::GET, typed("multipart/x-mixed-replace;boundary=a")),
        (Method::GET, typed("application/x-ndjson")),
        (Method::GET, typed("application/json-seq")),
        (Method::GET, typed("application/grpc+proto")),
        (Method::GET, with_status(typed("application/grpc"))),
        (Method::GET, respond(|it| *it.status_mut() = StatusCode::NO_CONTENT)),
        (Method::GET, respond(|it| *it.status_mut() = StatusCode::NOT_MODIFIED)),
        (Method::GET, respond(|it| *it.status_mut() = StatusCode::SWITCHING_PROTOCOLS)),
        (Method::GET, respond(|it| *it.status_mut() = StatusCode::BAD_GATEWAY)),
        (Method::GET, respond(|it| *it.status_mut() = StatusCode::TOO_MANY_REQUESTS)),
        (Method::GET, respond(|it| *it.status_mut() = StatusCode::REQUEST_TIMEOUT)),
        // An idempotency layer is still running the request.
        (
            Method::GET,
            respond(|it| {
                *it.status_mut() = StatusCode::CONFLICT;
                it.headers_mut().insert(header::RETRY_AFTER, 1.into());
            }),
        ),
        (Method::HEAD, respond(|_| ())),
        (Method::POST, respond(|_| ())),
        (Method::PATCH, respond(|_| ())),
        (Method::CONNECT, respond(|_| ())),
    ];
    let client = Client::new(0);
    for (method, (feed, response)) in cases {
        let told = format!("{method} {response:?}");
        let mut request = Ask::default();
        *request.method_mut() = method;
        assert!(client.begin(request, [response]).poll().is_ready(), "{told}");
        assert_eq!(feed.polls(), 0, "{told}");
    }

    let ended = Feed::new([Step::Closed]);
    assert!(client.get([&ended]).poll().is_ready());
    assert_eq!(ended.polls(), 0);
    let mut conditional = Ask::default();
    *conditional.method_mut() = Method::PUT;
    conditional.headers_mut().insert(header::IF_MATCH, HeaderValue::from_static("\"a\""));
    let feed = Feed::new([]);
    assert!(client.begin(conditional, [Response::new(feed.body())]).poll().is_ready());
    assert_eq!(feed.polls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_response_waits_for_its_body_if_the_classifier_takes_its_head_for_a_success() {
    let gone = Outcome::Failure(buttress::Fault::Transient);
    let classifier = HttpClassifier::new()
        .status(StatusCode::NOT_FOUND, gone)
        .status(StatusCode::BAD_GATEWAY, Outcome::Success);
    let own = client!(0, buffering().classify(classifier), |stack| stack);
    for (client, status, waits) in [
        (&Client::new(0), StatusCode::NOT_FOUND, true),
        (&Client::new(0), StatusCode::CONFLICT, true),
        (&own, StatusCode::NOT_FOUND, false),
        (&own, StatusCode::BAD_GATEWAY, true),
    ] {
        let mut response = Response::new(Feed::new([]).body());
        *response.status_mut() = status;
        let mut call = client.begin(Ask::default(), [response]);
        assert_eq!(call.poll().is_pending(), waits, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_safe_to_repeat_or_selected_waits_for_its_body() {
    let begins = |client: &Client, method: Method, keyed: bool| {
        let mut request = Ask::default();
        *request.method_mut() = method;
        if keyed {
            request.extensions_mut().insert(ClientKey);
        }
        client.begin(request, [Response::new(Feed::new([]).body())]).poll().is_pending()
    };
    let client = Client::new(0);
    for method in [Method::GET, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE] {
        assert!(begins(&client, method, false));
    }
    assert!(begins(&client, Method::POST, true) && !begins(&client, Method::POST, false));

    let http = buffering().body_buffer_for_fn(|head| head.method() == Method::POST);
    let client = client!(0, http, |stack| stack);
    assert!(begins(&client, Method::POST, false) && !begins(&client, Method::GET, false));
}

#[tokio::test(start_paused = true)]
async fn a_selected_request_that_is_not_safe_to_repeat_is_not_sent_again() {
    let http = buffering().body_buffer_for_fn(|_| true);
    let client = client!(3, http, |stack| stack);
    let mut request = Ask::default();
    *request.method_mut() = Method::POST;
    let call = client.begin(request, [Response::new(broken().body())]);
    let mut reader = answered(call).await;
    assert_eq!(client.verdict(), (1, 1));
    assert_eq!(rest(&mut reader), [got("two"), Got::Broken]);
}

#[tokio::test(start_paused = true)]
async fn trailers_and_sizes_are_those_of_the_body() {
    let mut trailers = HeaderMap::new();
    trailers.insert("checksum", HeaderValue::from_static("7"));
    let feed = Feed::new([Step::Data("two"), Step::Trailers(trailers.clone()), Step::End]);
    let mut reader = whole(&mut Client::new(0).get([&feed]));
    assert_eq!((reader.size_hint().lower(), reader.size_hint().upper()), (3, None));
    assert_eq!(next(&mut reader), data("two"));
    assert!(!reader.is_end_stream());
    assert_eq!(next(&mut reader), Poll::Ready(Got::Trailers(trailers)));
    assert!(reader.is_end_stream());
    assert_eq!(reader.size_hint().exact(), Some(0));
    assert_eq!(next(&mut reader), Poll::Ready(Got::End));

    let empty = Feed::new([Step::End]);
    let reader = whole(&mut Client::new(0).get([&empty]));
    assert!(reader.is_end_stream());
    assert_eq!(reader.size_hint().exact(), Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_drops_the_body_that_it_reads() {
    let client = Client::new(3);
    let feed = Feed::new([Step::Data("two")]);
    let mut call = client.get([&feed]);
    assert!(call.poll().is_pending() && !feed.is_dropped());
    drop(call);
    assert!(feed.is_dropped());
    // Its body saw the deadline until the end.
    assert!(feed.ambient().unwrap().0.is_some());
    assert_eq!((client.slots.in_flight(), client.verdict()), (0, (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_panics_while_it_is_read_is_not_polled_again() {
    let client = Client::new(3);
    let feed = Feed::new([Step::Data("two"), Step::Panic]);
    let mut call = client.get([&feed]);
    for _ in 0..2 {
        assert!(catch_unwind(AssertUnwindSafe(|| call.poll())).is_err());
        assert!(feed.is_dropped());
    }
    assert_eq!(feed.polls(), 2);
    drop(call);
    assert_eq!((client.slots.in_flight(), client.verdict()), (0, (1, 1)));
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_body_breaks_off_has_failed() {
    for (feed, state) in [(broken(), State::Open), (sound(), State::Closed)] {
        let breaker = window().consecutive_failures(1).probes(1).build().unwrap();
        let handle = breaker.handle();
        let client = client!(0, buffering(), |stack| stack.circuit_breaker(breaker));
        drop(answered(client.get([&broken()])).await);
        advance(handle.snapshot().retry_after().unwrap()).await;
        let reader = whole(&mut client.get([&feed]));
        assert_eq!(handle.state(), state);
        drop(reader);
        assert_eq!(handle.state(), state);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stack_in_a_stack_retries_a_body_that_breaks_off() {
    // Either stack may read it, or both of them.
    for (inner, outer) in [(true, true), (true, false), (false, true)] {
        let http = |buffers| if buffers { buffering() } else { HttpClientLayer::builder() };
        let budget = Budget::throttle().max_tokens(10).token_ratio(0.5).build().unwrap();
        let (around, slots, breaker) = stack(if outer { 1 } else { 0 }, &budget);
        let client = client!(if outer { 0 } else { 1 }, http(inner), |stack| stack);
        let answers = [&broken(), &sound()].map(|feed| Response::new(feed.body()));
        client.answers.lock().unwrap().extend(answers);
        let service = around.http_client(http(outer).build().unwrap()).layer(client.service);
        let body = service.oneshot(Ask::default()).await.unwrap().into_body();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "two oers", "{inner}, {outer}");
        let expected = if outer { (2, 1) } else { (1, 0) };
        let seen = breaker.snapshot();
        assert_eq!((seen.calls(), seen.failures()), expected, "{inner}, {outer}");
        assert_eq!((slots.in_flight(), client.slots.in_flight()), (0, 0));
        let failures = client.breaker.snapshot().failures();
        assert_eq!(failures, 1, "{inner}, {outer}");
    }
}

#[test]
fn explain_says_what_is_read() {
    let http = buffering().build().unwrap();
    let text = Stack::standard(ReplaySafe::new()).http_client(http).explain().to_string();
    assert!(text.contains("reads up to 8 bytes of a body before the response"), "{text}");
    assert!(!Stack::standard_http().explain().to_string().contains("reads up to"));
}
