//! Tests of the numbers of calls over HTTP, whose responses end later than their heads.
#![cfg(feature = "http")]

#[path = "layers/numbers.rs"]
mod idle;
mod numbers;
#[allow(dead_code, reason = "these tests need a part of it")]
#[path = "http_body/script.rs"]
mod script;

use std::{
    cell::Cell,
    convert::Infallible,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::Poll,
    time::Duration,
};

use buttress::{
    Stack,
    bulkhead::BulkheadLayer,
    circuit_breaker::CircuitBreakerLayer,
    http::{HttpClientLayer, HttpServerLayer, ReplaySafe},
    retry::{Backoff, Jitter, RetryLayer},
    testing::{
        cancel::{CancelHarness, PanicHarness},
        task::Spawned,
    },
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body::Body;
use http_body_util::{BodyExt, Empty};
use tokio::{task::yield_now, time::advance};
use tokio_test::task;
use tower::{Layer, Service, ServiceExt, service_fn};

use self::{
    idle::assert_numbers_add_up,
    numbers::Numbers,
    script::{Broken, Feed, Scripted, Step},
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(10);

type Ask = Request<Empty<Bytes>>;

fn retry() -> RetryLayer<ReplaySafe> {
    let backoff = Backoff::constant(TICK).jitter(Jitter::None).build().unwrap();
    RetryLayer::builder(ReplaySafe::new()).without_budget().backoff(backoff).build().unwrap()
}

// ===== one call, however its body ends =====

/// The behaviour of the reader of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    /// Reads up to the end.
    Reads,
    /// Drops the body after this number of reads. The last one waits.
    Leaves(usize),
}

fn trailers(status: &'static str) -> Step {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    Step::Trailers(trailers)
}

/// A body, its reader, and the outcome, the cause and the outcome of the retry.
type Case = (Vec<Step>, Reader, &'static str, Option<&'static str>, Option<&'static str>);

fn cases() -> Vec<Case> {
    let data = || Step::Data("a");
    let (reads, leaves) = (Reader::Reads, Reader::Leaves);
    vec![
        (vec![data(), Step::End], reads, "success", None, Some("success")),
        (vec![data(), trailers("0"), Step::End], reads, "success", None, Some("success")),
        (vec![data(), Step::Closed], reads, "success", None, Some("success")),
        (vec![data(), Step::Fail], reads, "failure", Some("body"), Some("failure")),
        (vec![data(), Step::Panic], reads, "failure", Some("panic"), None),
        (vec![data(), trailers("14")], reads, "failure", Some("UNAVAILABLE"), Some("failure")),
        (vec![data(), trailers("3")], reads, "failure", Some("INVALID_ARGUMENT"), Some("failure")),
        // The reader waits in vain.
        (vec![data()], reads, "failure", Some("timed_out"), Some("failure")),
        (vec![data()], leaves(0), "cancelled", None, None),
        (vec![data()], leaves(1), "cancelled", None, None),
        (vec![data()], leaves(2), "cancelled", None, None),
        (vec![data(), data(), data()], leaves(2), "cancelled", None, None),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_call_that_streams_is_counted_when_its_body_ends() {
    for (steps, reader, outcome, cause, result) in cases() {
        for retried in [false, true] {
            let numbers = Numbers::new();
            let client = HttpClientLayer::builder().body_idle(SECOND).build().unwrap();
            let stack = Stack::new().name("orders").register(&numbers.registry).retry(retry());
            let is_grpc = steps.iter().any(|step| matches!(step, Step::Trailers(_)));
            let feed = Feed::new([]);
            let (body, sent) = (feed.clone(), Arc::new(AtomicU32::new(0)));
            let service = stack.http_client(client).service(service_fn(move |_: Ask| {
                let fails = retried && sent.fetch_add(1, Ordering::Relaxed) == 0;
                let feed = if fails { Feed::new([Step::End]) } else { body.clone() };
                let mut response = Response::new(feed.body());
                if fails {
                    *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
                }
                if is_grpc && !fails {
                    let grpc = HeaderValue::from_static("application/grpc");
                    response.headers_mut().insert(CONTENT_TYPE, grpc);
                }
                async move { Ok::<_, Broken>(response) }
            }));
            let what = format!("{steps:?} {reader:?} {retried}");
            let pause = if retried { TICK } else { Duration::ZERO };
            let response = service.clone().oneshot(Ask::default()).await.unwrap();
            assert_eq!(numbers.get("call.active orders"), 1.0, "{what}");
            assert_eq!(numbers.sum("call.duration"), 0.0, "{what}");
            assert_eq!(numbers.sum("attempt.duration"), f64::from(u8::from(retried)), "{what}");
            advance(300 * MS).await;
            feed.push(steps.clone());
            read(response.into_body(), reader).await;
            let took = if cause == Some("timed_out") { 1_300 * MS } else { 300 * MS };
            let calls = numbers.millis("buttress.call.duration", outcome);
            assert_eq!(calls, (took + pause).as_millis(), "{what}");
            let failed = retried && outcome == "failure";
            let attempts = numbers.get(&format!("attempt.duration orders orders {outcome}"));
            assert_eq!(attempts, 1.0 + f64::from(u8::from(failed)), "{what}");
            let attempts = numbers.millis("buttress.attempt.duration", outcome);
            assert_eq!(attempts, took.as_millis(), "{what}");
            if let Some(cause) = cause {
                assert_eq!(numbers.get(&format!("call.errors orders {cause}")), 1.0, "{what}");
            }
            if let Some(result) = result {
                let name = format!("retry.calls orders orders {retried} {result}");
                assert_eq!(numbers.get(&name), 1.0, "{what}");
            }
            assert_eq!(numbers.sum("call.duration"), 1.0, "{what}");
            assert_numbers_add_up(&numbers.registry, 1 + u32::from(retried));
        }
    }
}

async fn read(body: impl Body<Data = Bytes>, reader: Reader) {
    match reader {
        Reader::Reads => {
            let mut body = Box::pin(body);
            loop {
                let mut frame = Spawned::new(body.frame());
                let polled = catch_unwind(AssertUnwindSafe(|| frame.poll()));
                match polled {
                    Ok(Poll::Ready(Some(Ok(_)))) => {}
                    Ok(Poll::Pending) => {
                        drop(frame);
                        let _ = body.frame().await;
                    }
                    _ => break,
                }
            }
        }
        Reader::Leaves(reads) => {
            let mut reader = task::spawn(body);
            for _ in 0..reads {
                let _ = reader.enter(|cx, body| body.poll_frame(cx));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_body_leaves_no_time_to_the_call_around_it() {
    let numbers = Numbers::new();
    let inner = Stack::standard_http().name("inner").register(&numbers.registry);
    let sent = Arc::new(AtomicU32::new(1));
    let inner = inner.service(service::<Broken>(&sent, None));
    let outer = Stack::new().name("outer").register(&numbers.registry);
    let outer = outer.service(service_fn(move |()| {
        let inner = inner.clone();
        async move {
            exchange(inner).await;
            // It keeps the thread busy in the poll in which the body has ended.
            assert!(Spawned::new(advance(2 * SECOND)).poll().is_pending());
            Ok::<_, Broken>(())
        }
    }));
    outer.clone().oneshot(()).await.unwrap();
    assert_eq!(numbers.get("call.duration inner success"), 1.0);
    assert_eq!(numbers.millis("buttress.call.duration", "outer"), 2_000);
}

// ===== cancelled, or panicking, at every poll =====

/// A point at which a call over HTTP panics.
#[derive(Clone, Copy, Debug)]
enum Point {
    Call,
    Poll,
    Body,
    EndOfBody,
}

const POINTS: [Point; 4] = [Point::Call, Point::Poll, Point::Body, Point::EndOfBody];

/// A service whose every third request fails, and whose bodies come bit by bit.
///
/// `panics` is the point of the next request at which it panics.
fn service<E>(
    sent: &Arc<AtomicU32>,
    panics: Option<Point>,
) -> impl Service<Ask, Response = Response<Scripted>, Error = E, Future: Send> + Clone + Send + Sync
where
    E: Send + Sync + 'static,
{
    let sent = Arc::clone(sent);
    service_fn(move |_: Ask| {
        let number = sent.fetch_add(1, Ordering::Relaxed);
        assert!(!matches!(panics, Some(Point::Call)), "in the call");
        async move {
            yield_now().await;
            assert!(!matches!(panics, Some(Point::Poll)), "in the poll");
            let fails = panics.is_none() && number % 3 == 0;
            let feed = Feed::new(match panics {
                Some(Point::Body) => vec![Step::Panic],
                Some(Point::EndOfBody) => vec![Step::Data("a"), Step::Panic],
                _ => vec![Step::Data("a"), Step::Data("b"), Step::End],
            });
            let mut response = Response::new(feed.body());
            if fails {
                *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
            }
            Ok(response)
        }
    })
}

/// Makes a call and reads its body. Time passes between the reads.
async fn exchange<S, B>(service: S)
where
    S: Service<Ask, Response = Response<B>, Error: std::fmt::Debug>,
    B: Body<Error: std::fmt::Debug>,
{
    let mut body = Box::pin(service.oneshot(Ask::default()).await.unwrap().into_body());
    while let Some(frame) = body.frame().await {
        frame.unwrap();
        yield_now().await;
    }
}

/// Cancels the exchange at each poll, and lets it panic at each point.
///
/// `retries` says that the service behind it retries.
async fn cancelled_and_panicking<Make, F>(
    numbers: &Numbers,
    sent: &AtomicU32,
    retries: bool,
    make: Make,
) where
    Make: Fn(Option<Point>) -> F,
    F: Future<Output = ()>,
{
    let (calls, attempts) =
        (Cell::new(0.0), || if retries { sent.load(Ordering::Relaxed) } else { 0 });
    let settled = |was_called: bool| {
        calls.set(calls.get() + f64::from(u8::from(was_called)));
        assert_numbers_add_up(&numbers.registry, attempts());
        assert_eq!(numbers.sum("call.duration"), calls.get(), "each call is counted once");
    };
    for _ in 0..3 {
        let polls = CancelHarness::new(|| make(None))
            .run_with(|| advance(TICK), |polls| settled(polls > 0))
            .await;
        assert!(polls >= 4, "{polls}");
    }
    PanicHarness::new(POINTS, |point| make(Some(point)))
        .run_with(|| advance(TICK), |_| settled(true))
        .await;
    for outcome in ["success", "failure", "cancelled"] {
        let (name, calls) = (format!("call.duration {}", numbers_stack(numbers)), numbers.all());
        assert!(calls[&format!("{name} {outcome}")] > 0.0, "{outcome} in {calls:#?}");
    }
}

/// Returns the name of the only stack.
fn numbers_stack(numbers: &Numbers) -> String {
    let all = numbers.all();
    let active = all.keys().find_map(|name| name.strip_prefix("call.active "));
    active.expect("a stack").to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_cancelled_or_panics_at_any_poll_counts_each_call_and_attempt_once() {
    let (numbers, sent) = (Numbers::new(), Arc::new(AtomicU32::new(0)));
    let stack = Stack::standard_http().name("orders").register(&numbers.registry).retry(retry());
    let _kept = stack.clone().service(service::<Broken>(&sent, None));
    cancelled_and_panicking(&numbers, &sent, true, |panics| {
        exchange(stack.clone().service(service::<Broken>(&sent, panics)))
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_cancelled_or_panics_at_any_poll_counts_each_call_once() {
    let (numbers, sent) = (Numbers::new(), Arc::new(AtomicU32::new(0)));
    let stack = Stack::new()
        .name("api")
        .register(&numbers.registry)
        .total_timeout(SECOND)
        .bulkhead(BulkheadLayer::builder().max_concurrent(1).build().unwrap())
        .circuit_breaker(CircuitBreakerLayer::new());
    let server = HttpServerLayer::new(stack);
    let _kept = server.layer(service::<Infallible>(&sent, None));
    cancelled_and_panicking(&numbers, &sent, false, |panics| {
        exchange(server.layer(service::<Infallible>(&sent, panics)))
    })
    .await;
}
