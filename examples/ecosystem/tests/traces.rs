//! Tests of the spans as OpenTelemetry sees them, with their status, for each way in which a call
//! can end.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::ready,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    time::Duration,
};

use buttress::{
    BoxError, Deadline, Error, Stack,
    bulkhead::BulkheadLayer,
    circuit_breaker::CircuitBreakerLayer,
    http::HttpClientLayer,
    retry::{Backoff, Jitter, ReplayClones, RetryLayer, replay_fn},
    testing::{Flaky, Step, task::Spawned},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody, combinators::UnsyncBoxBody};
use opentelemetry::{
    propagation::{Injector, TextMapPropagator},
    trace::{SpanKind, Status, TracerProvider},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{InMemorySpanExporter, SdkTracerProvider},
};
use tower::{Layer, Service, ServiceExt, service_fn};
use tracing::subscriber::{DefaultGuard, set_default};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{layer::SubscriberExt, registry::Registry};

const SECOND: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(100);

type Failure = Error<&'static str>;
type Inner = Flaky<&'static str, Failure>;

const BROKEN: Failure = Error::Service("broken");

/// The spans of this thread, until it is dropped.
struct Traces {
    exporter: InMemorySpanExporter,
    _provider: SdkTracerProvider,
    _guard: DefaultGuard,
}

impl Traces {
    fn start() -> Self {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let guard = set_default(Registry::default().with(layer));
        Self { exporter, _provider: provider, _guard: guard }
    }

    /// Returns the spans in the order in which they ended.
    ///
    /// Each is a line with its parent, its status, and its outcome and cause.
    fn ended(&self) -> Vec<String> {
        let spans = self.exporter.get_finished_spans().unwrap();
        let names: HashMap<_, _> =
            spans.iter().map(|span| (span.span_context.span_id(), span.name.clone())).collect();
        let line = |span: &opentelemetry_sdk::trace::SpanData| {
            assert_eq!(span.span_kind, SpanKind::Internal);
            let status = match &span.status {
                Status::Unset => "unset",
                Status::Ok => "ok",
                Status::Error { .. } => "error",
            };
            let parent = names.get(&span.parent_span_id);
            let place = parent.map_or(String::new(), |parent| format!("{parent} > "));
            let values = ["buttress.outcome", "error.type"].map(|name| {
                let value = span.attributes.iter().find(|it| it.key.as_str() == name);
                value.map_or(String::new(), |it| format!(" {}", it.value.as_str()))
            });
            format!("{place}{}: {status},{}", span.name, values.concat())
        };
        spans.iter().map(line).collect()
    }
}

fn flaky(steps: impl IntoIterator<Item = Step<&'static str, Failure>>) -> Inner {
    Flaky::new(steps, || Ok("answer"))
}

fn fails() -> Inner {
    Flaky::new([], || Err(BROKEN))
}

fn backoff() -> Backoff {
    Backoff::constant(PAUSE).jitter(Jitter::None).build().unwrap()
}

fn retry() -> RetryLayer<ReplayClones> {
    RetryLayer::builder(ReplayClones).retries(2).backoff(backoff()).build().unwrap()
}

/// Makes one call and returns its spans.
async fn call<S>(service: S) -> Vec<String>
where
    S: Service<(), Response = &'static str, Error = Failure>,
{
    let traces = Traces::start();
    let _ = service.oneshot(()).await;
    traces.ended()
}

#[tokio::test(start_paused = true)]
async fn a_success_at_once() {
    let stack = Stack::standard(ReplayClones);
    assert_eq!(
        call(stack.layer(flaky([]))).await,
        ["call > attempt: unset, success", "call: unset, success"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_success_on_the_third_attempt() {
    let inner = flaky([Step::Respond(Err(BROKEN)), Step::Hang]);
    let stack = Stack::new().retry(retry()).attempt_timeout(SECOND);
    assert_eq!(
        call(stack.layer(inner)).await,
        [
            "call > attempt: error, transient transient",
            "call > attempt: error, timed_out timed_out",
            "call > attempt: unset, success",
            "call: unset, success",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker() {
    let breaker = CircuitBreakerLayer::new();
    breaker.handle().force_open();
    let stack = Stack::new().retry(retry()).circuit_breaker(breaker);
    assert_eq!(
        call(stack.layer(flaky([]))).await,
        ["call > attempt: error, rejected circuit_open", "call: error, rejected circuit_open"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_opens_the_breaker_is_no_failure_for_it() {
    let breaker = CircuitBreakerLayer::builder().count_window(1).minimum_calls(1);
    let breaker = breaker.slow_calls(PAUSE, 1.0).build().unwrap();
    let state = breaker.handle();
    let inner = flaky([Step::RespondAfter(SECOND, Ok("answer"))]);
    let stack = Stack::new().circuit_breaker(breaker);
    assert_eq!(call(stack.layer(inner)).await, ["call: unset, success"]);
    assert_eq!(state.state(), buttress::circuit_breaker::State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_in_the_queue_of_a_bulkhead() {
    let bulkhead = BulkheadLayer::builder().max_concurrent(1).queue(1, PAUSE).build().unwrap();
    let mut holder = Spawned::new(bulkhead.layer(flaky([Step::Hang])).oneshot(()));
    assert!(holder.poll().is_pending());
    let stack = Stack::new().retry(retry()).bulkhead(bulkhead);
    assert_eq!(
        call(stack.layer(flaky([]))).await,
        [
            "call > attempt: error, rejected queue_timed_out",
            "call: error, rejected queue_timed_out",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn the_total_timeout_before_the_end_of_the_backoff() {
    let stack = Stack::new().total_timeout(PAUSE).retry(retry());
    assert_eq!(
        call(stack.layer(fails())).await,
        ["call > attempt: error, transient transient", "call: error, failure transient"]
    );
    let stack = Stack::new().total_timeout(PAUSE * 2).retry(retry());
    let unready = flaky([Step::Respond(Err(BROKEN)), Step::Unready]);
    assert_eq!(
        call(stack.layer(unready)).await,
        ["call > attempt: error, transient transient", "call: error, rejected timed_out"]
    );
}

#[tokio::test(start_paused = true)]
async fn the_total_timeout_in_an_attempt() {
    let stack = Stack::new().total_timeout(SECOND).retry(retry());
    assert_eq!(
        call(stack.layer(flaky([Step::Hang]))).await,
        ["call > attempt: error, cut timed_out", "call: error, rejected timed_out"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_its_caller_drops() {
    let traces = Traces::start();
    let stack = Stack::standard(ReplayClones);
    let mut dropped = Spawned::new(stack.layer(flaky([Step::Hang])).oneshot(()));
    assert!(dropped.poll().is_pending());
    drop(dropped);
    assert_eq!(traces.ended(), ["call > attempt: unset, cancelled", "call: unset, cancelled"]);

    let traces = Traces::start();
    let late = Stack::new().retry(retry()).layer(flaky([Step::Hang])).oneshot(());
    assert!(Deadline::scope(Deadline::after(SECOND), late).await.is_err());
    assert_eq!(
        traces.ended(),
        ["call > attempt: error, cut timed_out", "call: error, cut timed_out"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_service_that_panics() {
    for step in [Step::PanicInCall, Step::PanicInPoll] {
        let traces = Traces::start();
        let stack = Stack::new().retry(retry());
        let mut call = Spawned::new(stack.layer(flaky([step])).oneshot(()));
        assert!(catch_unwind(AssertUnwindSafe(|| call.poll())).is_err());
        drop(call);
        assert_eq!(
            traces.ended(),
            ["call > attempt: error, panicked panic", "call: error, panicked panic"]
        );
    }
}

// Calls over HTTP.

type Body = UnsyncBoxBody<Bytes, BoxError>;
type Ask = Request<Empty<Bytes>>;

/// Creates a response whose body has these frames.
fn respond(status: u16, frames: Vec<Result<Frame<Bytes>, BoxError>>) -> Response<Body> {
    let body = StreamBody::new(tokio_stream::iter(frames)).boxed_unsync();
    Response::builder().status(status).body(body).unwrap()
}

fn data() -> Result<Frame<Bytes>, BoxError> {
    Ok(Frame::data(Bytes::from_static(b"data")))
}

/// Makes a call whose attempts get these responses, and reads the body or drops it.
async fn over_http(responses: Vec<Response<Body>>, reads: bool) -> Vec<String> {
    let traces = Traces::start();
    let responses = Mutex::new(responses.into_iter());
    let responses = Arc::new(responses);
    let inner = service_fn(move |_: Ask| {
        ready(Ok::<_, Infallible>(responses.lock().unwrap().next().expect("an answer for each")))
    });
    let retry = RetryLayer::builder(replay_fn(|ask: &Ask| Some(ask.clone())));
    let retry = retry.retries(1).backoff(backoff()).build().unwrap();
    let client = Stack::new().retry(retry).http().service(inner);
    let body = client.oneshot(Ask::default()).await.unwrap().into_body();
    if reads {
        let _ = body.collect().await;
    } else {
        drop(body);
    }
    traces.ended()
}

#[tokio::test(start_paused = true)]
async fn a_final_503() {
    let unavailable = || respond(503, vec![data()]);
    assert_eq!(
        over_http(vec![unavailable(), unavailable()], true).await,
        [
            "call > attempt: error, transient 503",
            "call > attempt: error, transient 503",
            "call: error, failure 503",
        ]
    );
    assert_eq!(
        over_http(vec![unavailable(), respond(200, vec![data()])], true).await,
        [
            "call > attempt: error, transient 503",
            "call > attempt: unset, success",
            "call: unset, success",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_code_in_the_trailers() {
    for (code, attempt, call) in [
        ("0", "unset, success", "unset, success"),
        ("14", "error, transient UNAVAILABLE", "error, failure UNAVAILABLE"),
        ("5", "error, permanent NOT_FOUND", "error, failure NOT_FOUND"),
    ] {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(code));
        let mut response = respond(200, vec![data(), Ok(Frame::trailers(trailers))]);
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert("content-type", grpc);
        let expected = [format!("call > attempt: {attempt}"), format!("call: {call}")];
        assert_eq!(over_http(vec![response], true).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_or_is_dropped() {
    let broken = respond(200, vec![data(), Err(io::Error::other("the wire").into())]);
    assert_eq!(
        over_http(vec![broken], true).await,
        ["call > attempt: error, transient body", "call: error, failure body"]
    );
    let unread = respond(200, vec![data(), data()]);
    assert_eq!(
        over_http(vec![unread], false).await,
        ["call > attempt: unset, cancelled", "call: unset, cancelled"]
    );
}

/// The headers into which a propagator writes.
struct Headers<'a>(&'a mut HeaderMap);

impl Injector for Headers<'_> {
    fn set(&mut self, key: &str, value: String) {
        assert_eq!(key, if value.is_empty() { "tracestate" } else { "traceparent" });
        let name = http::HeaderName::from_bytes(key.as_bytes()).unwrap();
        self.0.insert(name, value.try_into().unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn each_attempt_is_a_parent_of_its_own() {
    let traces = Traces::start();
    let sent = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&sent);
    let inner = service_fn(move |ask: Ask| {
        let mut seen = seen.lock().unwrap();
        seen.push(ask.headers()["traceparent"].to_str().unwrap().to_owned());
        let status = if seen.len() < 3 { 503 } else { 200 };
        ready(Ok::<_, Infallible>(respond(status, vec![])))
    });
    let propagator = TraceContextPropagator::new();
    let http = HttpClientLayer::builder().on_send_fn(move |headers| {
        let context = tracing::Span::current().context();
        propagator.inject_context(&context, &mut Headers(headers));
    });
    let retry = RetryLayer::builder(replay_fn(|ask: &Ask| Some(ask.clone())));
    let stack = Stack::new().retry(retry.build().unwrap()).http_client(http.build().unwrap());
    let response = stack.service(inner).oneshot(Ask::default()).await.unwrap();
    response.into_body().collect().await.unwrap();

    let spans = traces.exporter.get_finished_spans().unwrap();
    let call = spans.last().unwrap();
    let attempts = spans.iter().filter(|span| span.name == "attempt");
    let parents: Vec<_> = attempts
        .map(|span| {
            assert_eq!(span.parent_span_id, call.span_context.span_id());
            format!("00-{}-{}-01", call.span_context.trace_id(), span.span_context.span_id())
        })
        .collect();
    assert_eq!(parents.len(), 3);
    assert_eq!(*sent.lock().unwrap(), parents);
}
