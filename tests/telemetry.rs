//! Tests of spans and events, as a subscriber sees them.

mod capture;
#[macro_use]
mod layers;

use std::{
    future::{Ready, ready},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{self, Poll},
    time::Duration,
};

use buttress::{
    CarryRejection, Classify, Fault, Outcome, RetryHint, Stack,
    bulkhead::BulkheadLayer,
    circuit_breaker::CircuitBreakerLayer,
    idempotency::{Digests, IdempotencyLayer, Key, RequestKey, store::MemoryStore},
    retry::{Backoff, Jitter, Replay, ReplayClones, RetryBuilder, RetryLayer, replay_fn},
    telemetry::field,
    testing::{Flaky, Step, task::Spawned},
    timeout::TimeoutLayer,
};
use tokio::time::advance;
use tower::{Layer, Service, ServiceExt};
use tracing::{Event, Level, Metadata, Subscriber, span, subscriber::set_default};

use self::{
    capture::{Capture, Seen},
    layers::{Effect, Failure, Row, Text},
};

const PAUSE: Duration = Duration::from_millis(100);
const BROKEN: Failure = Failure::Service("broken");

fn flaky(
    steps: impl IntoIterator<Item = Step<&'static str, Failure>>,
) -> Flaky<&'static str, Failure> {
    Flaky::new(steps, || Ok("answer"))
}

fn retry() -> RetryBuilder<ReplayClones> {
    let backoff = Backoff::constant(PAUSE).jitter(Jitter::None).build().unwrap();
    RetryLayer::builder(ReplayClones).name("orders").backoff(backoff)
}

#[tokio::test(start_paused = true)]
async fn a_call_has_a_span_and_each_of_its_attempts_another() {
    let (capture, _guard) = Capture::start();
    let inner = flaky([Step::Respond(Err(BROKEN)), Step::Hang]);
    let stack = Stack::new().retry(retry().build().unwrap()).attempt_timeout(PAUSE);
    assert_eq!(stack.layer(inner).oneshot(()).await, Ok("answer"));

    let spans = capture.spans();
    let names: Vec<_> = spans.iter().map(|span| (span.name.as_str(), span.level)).collect();
    let (call, attempt) = (("call", Level::INFO), ("attempt", Level::INFO));
    assert_eq!(names, [call, attempt, attempt, attempt]);
    assert_eq!(
        (spans[0].get(field::OUTCOME), spans[0].get(field::ERROR_TYPE)),
        (Some("success"), None)
    );
    let expected = [
        ("1", "0", "transient", Some("transient")),
        ("2", "100", "timed_out", Some("timed_out")),
        ("3", "100", "success", None),
    ];
    for (span, (number, delay, outcome, error)) in spans[1..].iter().zip(expected) {
        assert_eq!(span.within.as_deref(), Some("call"));
        assert_eq!(span.get(field::LAYER), Some("orders"));
        assert_eq!(span.get(field::ATTEMPT), Some(number));
        assert_eq!(span.get(field::DELAY_MS), Some(delay));
        assert_eq!(span.get(field::OUTCOME), Some(outcome));
        assert_eq!(span.get(field::ERROR_TYPE), error);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_tells_what_came_of_it() {
    let (capture, _guard) = Capture::start();
    let _ = Stack::new().layer(flaky([Step::Respond(Err(BROKEN))])).oneshot(()).await;
    let stack = Stack::new().attempt_timeout(PAUSE);
    let _ = stack.layer(flaky([Step::Hang])).oneshot(()).await;
    let told: Vec<_> = capture
        .spans()
        .iter()
        .map(|span| {
            (
                span.get(field::OUTCOME).map(str::to_owned),
                span.get(field::ERROR_TYPE).map(str::to_owned),
            )
        })
        .collect();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(told, [(text("failure"), text("transient")), (text("rejected"), text("timed_out"))]);
}

#[tokio::test(start_paused = true)]
async fn what_an_attempt_emits_is_in_its_span() {
    let (capture, _guard) = Capture::start();
    let inner = tower::service_fn(|()| {
        tracing::info!("in call");
        async {
            tracing::info!("in poll");
            tokio::task::yield_now().await;
            tracing::info!("in a later poll");
            Ok::<_, Failure>(())
        }
    });
    let stack = Stack::standard(ReplayClones);
    assert_eq!(stack.layer(inner).oneshot(()).await, Ok(()));
    let within: Vec<_> = capture.events().into_iter().map(|event| event.within).collect();
    assert_eq!(within, vec![Some("attempt".to_owned()); 3]);
}

#[tokio::test(start_paused = true)]
async fn a_retry_warns_of_each_retry_and_of_giving_up() {
    let (capture, _guard) = Capture::start();
    let inner = Flaky::<(), Failure>::new([], || Err(BROKEN));
    let _ = retry().retries(1).build().unwrap().layer(inner).oneshot(()).await;
    let events = capture.events();
    assert_eq!(
        capture.texts(),
        [(Level::WARN, "retrying call".to_owned()), (Level::WARN, "retries exhausted".to_owned())]
    );
    assert_eq!(events[0].get(field::LAYER), Some("orders"));
    assert_eq!(events[0].get(field::ATTEMPT), Some("1"));
    assert_eq!(events[0].get(field::OUTCOME), Some("transient"));
    assert_eq!(events[0].get(field::DELAY_MS), Some("100"));
    assert_eq!(events[1].get(field::ATTEMPT), Some("2"));
    assert_eq!(events[1].get(field::REASON), Some("retries"));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_not_retried_warns_of_nothing() {
    let (capture, _guard) = Capture::start();
    let fine = Stack::standard(ReplayClones).layer(flaky([]));
    assert_eq!(fine.oneshot(()).await, Ok("answer"));
    let never = retry().retries(0).build().unwrap();
    let _ = never.layer(flaky([Step::Respond(Err(BROKEN))])).oneshot(()).await;
    assert_eq!(capture.texts(), [(Level::DEBUG, "call not retried".to_owned())]);
    let event = &capture.events()[0];
    assert_eq!(event.get(field::LAYER), Some("orders"));
    assert_eq!(event.get(field::ATTEMPT), Some("1"));
    assert_eq!(event.get(field::OUTCOME), Some("transient"));
    assert_eq!(event.get(field::REASON), Some("retries_disabled"));
}

/// Returns the reasons in the events of calls that were not retried.
fn reasons_of(capture: &Capture) -> Vec<(Level, String, String)> {
    let reason = |event: &Seen| event.get(field::REASON).unwrap_or_default().to_owned();
    let events = capture.events().into_iter();
    events.map(|event| (event.level, event.name.clone(), reason(&event))).collect()
}

fn not_retried(reason: &str) -> Vec<(Level, String, String)> {
    vec![(Level::DEBUG, "call not retried".to_owned(), reason.to_owned())]
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_is_final_says_why_it_is_not_retried() {
    /// A permanent failure, told to stop if the error is the empty text.
    struct Final(Outcome);
    impl Classify<&'static str, Failure> for Final {
        fn classify(&self, _: Result<&&'static str, &Failure>) -> Outcome {
            self.0
        }
        fn hint(&self, result: Result<&&'static str, &Failure>) -> RetryHint {
            let told = result.is_err_and(|error| error.service() == Some(&""));
            if told { RetryHint::Stop } else { RetryHint::Unstated }
        }
    }
    let permanent = Outcome::Failure(Fault::Permanent);
    for (outcome, error, reason) in [
        (permanent, BROKEN, "permanent"),
        (Outcome::Ignored, BROKEN, "ignored"),
        (permanent, Failure::Service(""), "stop_hint"),
    ] {
        let (capture, _guard) = Capture::start();
        let layer = retry().classify(Final(outcome)).build().unwrap();
        let _ = layer.layer(flaky([Step::Respond(Err(error))])).oneshot(()).await;
        assert_eq!(reasons_of(&capture), not_retried(reason));
    }
    let (capture, _guard) = Capture::start();
    let layer = RetryLayer::new(replay_fn(|(): &()| None));
    let _ = layer.layer(flaky([Step::Respond(Err(BROKEN))])).oneshot(()).await;
    assert_eq!(reasons_of(&capture), not_retried("policy"));
}

#[tokio::test(start_paused = true)]
async fn the_reason_for_no_retry_is_not_computed_if_nobody_wants_it() {
    /// A policy that is asked for its reason only by a subscriber.
    struct Never;
    impl Replay<()> for Never {
        fn replay(&self, (): &()) -> Option<()> {
            None
        }
        fn replay_unsent(&self, (): &()) -> Option<()> {
            Some(())
        }
        fn reason(&self, (): &()) -> &'static str {
            unreachable!("nobody listens")
        }
    }
    let _guard = set_default(Deaf::default());
    let layer = RetryLayer::new(Never);
    assert_eq!(layer.layer(flaky([Step::Respond(Err(BROKEN))])).oneshot(()).await, Err(BROKEN));
}

#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn a_request_that_may_not_be_replayed_says_why() {
    use buttress::http::{ReplayBody, ReplayBodyLayer, ReplaySafe};
    use http::{Request, Response};
    use http_body_util::{BodyExt, Full};

    let failing = tower::service_fn(|request: Request<ReplayBody<Full<bytes::Bytes>>>| async {
        let _ = request.into_body().collect().await;
        Err::<Response<()>, _>(BROKEN)
    });
    let policy = ReplaySafe::new().except_fn(|head| head.uri().path() == "/except");
    let retry = RetryLayer::builder(policy).retries(1).build().unwrap();
    let replayed = ReplayBodyLayer::builder().max_request_bytes(10).build().unwrap();
    let client = replayed.layer(retry.layer(failing));
    let none = ("x-a", "1");
    for (method, path, header, body, reason) in [
        ("POST", "/", none, "", "method"),
        ("POST", "/", ("idempotency-key", "a"), "", "key_not_honoured"),
        ("POST", "/", ("content-type", "application/grpc"), "", "grpc_method"),
        ("PUT", "/", ("if-match", "a"), "", "conditional_request"),
        ("GET", "/except", none, "", "excluded"),
        ("PUT", "/", none, "more than ten bytes", "body_not_kept"),
    ] {
        let (capture, _guard) = Capture::start();
        let request = Request::builder().method(method).uri(path).header(header.0, header.1);
        let request = request.body(Full::from(body)).unwrap();
        client.clone().oneshot(request).await.unwrap_err();
        assert_eq!(reasons_of(&capture), not_retried(reason), "{method} {path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_warns_once_whatever_is_nested() {
    let (capture, _guard) = Capture::start();
    let outer = TimeoutLayer::builder(PAUSE).name("total").build().unwrap();
    let service = outer.layer(TimeoutLayer::new(PAUSE * 2).layer(flaky([Step::Hang])));
    assert!(service.oneshot(()).await.is_err());
    assert_eq!(capture.texts(), [(Level::WARN, "call timed out".to_owned())]);
    let events = capture.events();
    assert_eq!(events[0].get(field::LAYER), Some("total"));
    assert_eq!(events[0].get(field::LIMIT_MS), Some("100"));
}

#[tokio::test(start_paused = true)]
async fn a_bulkhead_warns_of_rejections_and_tells_of_its_queue() {
    let (capture, _guard) = Capture::start();
    let layer =
        BulkheadLayer::builder().name("pool").max_concurrent(1).queue(1, PAUSE).build().unwrap();
    let service = layer.layer(flaky([Step::Hang]));
    let mut first = Spawned::new(service.clone().oneshot(()));
    let mut second = Spawned::new(service.clone().oneshot(()));
    assert!(first.poll().is_pending() && second.poll().is_pending());
    assert!(service.oneshot(()).await.is_err());
    assert!(second.into_inner().await.is_err());
    layer.handle().resize(7).unwrap();
    let rejected = || (Level::WARN, "call rejected".to_owned());
    assert_eq!(
        capture.texts(),
        [
            (Level::DEBUG, "call queued".to_owned()),
            rejected(),
            rejected(),
            (Level::DEBUG, "bulkhead resized".to_owned()),
        ]
    );
    let events = capture.events();
    assert!(events.iter().all(|event| event.get(field::LAYER) == Some("pool")));
    assert_eq!(events[0].get(field::QUEUED), Some("1"));
    assert_eq!(events[1].get(field::ERROR_TYPE), Some("bulkhead_full"));
    assert_eq!(events[2].get(field::ERROR_TYPE), Some("queue_timed_out"));
    assert_eq!(events[3].get(field::LIMIT), Some("7"));
}

#[tokio::test(start_paused = true)]
async fn the_states_of_a_breaker_have_fixed_levels() {
    let (capture, _guard) = Capture::start();
    let layer = CircuitBreakerLayer::builder()
        .name("bank")
        .consecutive_failures(1)
        .open_for(PAUSE)
        .open_jitter(0.0)
        .probes(1)
        .build()
        .unwrap();
    let service = layer.layer(flaky([Step::Respond(Err(BROKEN))]));
    assert!(service.clone().oneshot(()).await.is_err());
    assert!(service.clone().oneshot(()).await.is_err());
    advance(PAUSE).await;
    assert!(service.oneshot(()).await.is_ok());
    layer.handle().disable();
    assert_eq!(
        capture.texts(),
        [
            (Level::ERROR, "circuit opened".to_owned()),
            (Level::WARN, "call rejected".to_owned()),
            (Level::WARN, "circuit half-open".to_owned()),
            (Level::INFO, "circuit closed".to_owned()),
            (Level::DEBUG, "circuit disabled".to_owned()),
        ]
    );
    let events = capture.events();
    assert!(events.iter().all(|event| event.get(field::LAYER) == Some("bank")));
    assert!(events[0].get(field::REASON).is_some());
    assert_eq!(events[0].get(field::OPEN_MS), Some("100"));
    assert_eq!(events[1].get(field::ERROR_TYPE), Some("circuit_open"));
    assert_eq!(events[1].get(field::RETRY_AFTER_MS), Some("100"));
    assert_eq!(events[2].get(field::PROBES), Some("1"));
}

/// A subscriber that is interested in nothing, and counts what still reaches it.
#[derive(Clone, Default)]
struct Deaf(Arc<AtomicUsize>);

impl Subscriber for Deaf {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        false
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        self.0.fetch_add(1, Ordering::Relaxed);
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn enter(&self, _: &span::Id) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn exit(&self, _: &span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn nothing_is_built_when_nobody_listens() {
    let deaf = Deaf::default();
    let _guard = set_default(deaf.clone());
    let stack = Stack::standard(ReplayClones).attempt_timeout(PAUSE);
    let service = stack.layer(flaky([Step::Respond(Err(BROKEN)), Step::Hang]));
    assert_eq!(service.oneshot(()).await, Ok("answer"));
    assert_eq!(deaf.0.load(Ordering::Relaxed), 0);
}

test_every!(layers, no_layer_builds_anything_when_nobody_listens);

async fn no_layer_builds_anything_when_nobody_listens<L>(name: Text, make: impl Fn() -> Row<L>)
where
    L: Layer<Flaky<Text, Failure>, Service: Service<(), Response = Text, Error = Failure> + Clone>,
{
    let row = make();
    let deaf = Deaf::default();
    let _guard = set_default(deaf.clone());
    let mut steps = vec![Step::Respond(Err(BROKEN))];
    if row.ends_a_hang_after.is_some() {
        steps.push(Step::Hang);
    }
    let calls = steps.len() + 1;
    let service = row.layer.layer(flaky(steps));
    for _ in 0..calls {
        let call = tokio::time::timeout(Duration::from_secs(60), service.clone().oneshot(()));
        let _ = call.await.expect("a call never ended");
    }
    for obstacle in &row.obstacles {
        if let Effect::Rejects(_) = obstacle.effect {
            let _held = (obstacle.hold)();
            assert!(service.clone().oneshot(()).await.is_err());
        }
    }
    assert_eq!(deaf.0.load(Ordering::Relaxed), 0, "{name}");
}

test_every!(layers, a_call_that_goes_through_tells_of_nothing);

async fn a_call_that_goes_through_tells_of_nothing<L>(_: Text, make: impl Fn() -> Row<L>)
where
    L: Layer<Flaky<Text, Failure>, Service: Service<(), Response = Text, Error = Failure>>,
{
    let row = make();
    let (capture, _guard) = Capture::start();
    assert_eq!(row.layer.layer(flaky([])).oneshot(()).await, Ok("answer"));
    assert_eq!(capture.texts(), []);
}

test_every!(layers, a_layer_warns_once_of_a_call_that_it_rejects);

async fn a_layer_warns_once_of_a_call_that_it_rejects<L>(_: Text, make: impl Fn() -> Row<L>)
where
    L: Layer<Flaky<Text, Failure>, Service: Service<(), Response = Text, Error = Failure>>,
{
    for number in 0..make().obstacles.len() {
        // Of one layer, the next line with the same reason is at DEBUG.
        let row = make();
        let obstacle = &row.obstacles[number];
        let Effect::Rejects(kind) = obstacle.effect else { continue };
        let _held = (obstacle.hold)();
        let (capture, _guard) = Capture::start();
        let error = row.layer.layer(flaky([])).oneshot(()).await.unwrap_err();
        assert_eq!(error.rejection().map(|rejection| rejection.kind()), Some(kind));
        assert_eq!(
            capture.texts(),
            [(Level::WARN, "call rejected".to_owned())],
            "{}",
            obstacle.name
        );
        let events = capture.events();
        assert_eq!(events[0].get(field::ERROR_TYPE), Some(kind));
        assert!(events[0].get(field::LAYER).is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_is_reported_before_it_is_full() {
    // A single tenant may use all ten records, and one of many may use five.
    let ten = || MemoryStore::builder().max_records(10).build().unwrap();
    let find_key = |key: &u32| Ok(RequestKey::Key(Key::new(key.to_string())?));
    let read = |key: &u32, request: &mut Digests| request.part(key.to_be_bytes());
    let builder = || IdempotencyLayer::builder_fn(ten(), find_key, read);

    let layer = builder().single_tenant().build().unwrap();
    reports_once_before_it_is_full(&layer, 8, 10, "store").await;
    let layer = builder().scope_fn(|_: &u32| Some("orders")).build().unwrap();
    reports_once_before_it_is_full(&layer, 4, 5, "share of a scope").await;
}

/// Claims new keys, and asserts that the claim number `first` is reported, and the next are not.
async fn reports_once_before_it_is_full<L>(layer: &L, first: u32, full: u32, of: &str)
where
    L: Layer<Number, Service: Service<u32, Response = u32, Error = Failure>>,
{
    let (capture, _guard) = Capture::start();
    let call = |key| layer.layer(Number).oneshot(key);
    for key in 1..first {
        assert_eq!(call(key).await, Ok(key));
    }
    assert_eq!(capture.texts(), []);
    for key in first..=full {
        assert_eq!(call(key).await, Ok(key));
    }
    let almost_full = || (Level::WARN, "idempotency store almost full".to_owned());
    assert_eq!(capture.texts(), [almost_full()]);
    let seen = capture.events().remove(0);
    assert_eq!(seen.get(field::LAYER), Some("idempotency"));
    assert_eq!((seen.get(field::REASON), seen.get(field::STORE_PERCENT)), (Some(of), Some("80")));

    assert!(call(full + 1).await.is_err());
    let rejected = (Level::WARN, "call rejected".to_owned());
    let texts = capture.texts();
    assert!(texts.contains(&rejected), "{texts:?}");
    assert_eq!(texts.iter().filter(|text| **text == almost_full()).count(), 1);
}

/// A service that returns its request.
#[derive(Clone)]
struct Number;

impl Service<u32> for Number {
    type Response = u32;
    type Error = Failure;
    type Future = Ready<Result<u32, Failure>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, number: u32) -> Self::Future {
        ready(Ok(number))
    }
}

#[tokio::test(start_paused = true)]
async fn the_events_of_a_breaker_have_its_key_only_if_it_is_described() {
    for described in [false, true] {
        let (capture, _guard) = Capture::start();
        let mut keyed = CircuitBreakerLayer::builder()
            .name("bank")
            .consecutive_failures(1)
            .probes(1)
            .open_for(PAUSE)
            .keyed_fn(|(): &()| "secret");
        if described {
            keyed = keyed.describe_fn(|key| key.to_uppercase());
        }
        let layer = keyed.build().unwrap();
        let service = layer.layer(flaky([Step::Respond(Err(BROKEN))]));
        let _ = service.clone().oneshot(()).await;
        advance(2 * PAUSE).await;
        service.oneshot(()).await.unwrap();
        layer.handle("secret").unwrap().disable();
        layer.handle("secret").unwrap().force_open();
        layer.layer(flaky([])).oneshot(()).await.unwrap_err();
        let events = capture.events();
        assert_eq!(events.len(), 6, "{events:?}");
        assert_eq!(events[5].name, "call rejected");
        for event in events {
            assert_eq!(event.get(field::LAYER), Some("bank"));
            assert_eq!(event.get(field::BREAKER_KEY), described.then_some("SECRET"));
            assert!(!format!("{event:?}").contains("secret"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn names_do_not_change_unnoticed() {
    let names = [
        field::LAYER,
        field::ATTEMPT,
        field::OUTCOME,
        field::ERROR_TYPE,
        field::DELAY_MS,
        field::LIMIT_MS,
        field::RETRY_AFTER_MS,
        field::REASON,
        field::OPEN_MS,
        field::PROBES,
        field::QUEUED,
        field::LIMIT,
        field::BREAKER_KEY,
        field::STACK,
        field::KIND,
        field::SUPPRESSED,
        field::STATUS,
        field::ATTEMPTS,
        field::FAULT,
        field::FAULT_CALL,
        field::INJECTED,
    ];
    assert_eq!(
        names,
        [
            "buttress.layer",
            "attempt",
            "buttress.outcome",
            "error.type",
            "delay_ms",
            "limit_ms",
            "retry_after_ms",
            "buttress.reason",
            "open_ms",
            "probes",
            "queued",
            "limit",
            "circuit_breaker.key",
            "buttress.stack",
            "buttress.kind",
            "suppressed",
            "otel.status_code",
            "buttress.attempts",
            "buttress.fault",
            "chaos.call",
            "chaos.injected",
        ]
    );
}
