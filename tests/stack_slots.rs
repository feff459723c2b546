//! Tests of the slots of a stack: open slots, optional slots, and the resulting types.

#[path = "support/stacks.rs"]
mod stacks;

use std::{
    future::{Future, Ready},
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use buttress::{
    CarryRejection, Error, Stack,
    bulkhead::BulkheadLayer,
    cache::CacheLayer,
    circuit_breaker::CircuitBreakerLayer,
    fallback::FallbackLayer,
    retry::{ReplayClones, RetryLayer, replay_fn},
    stack::{BoxedServiceOf, ServiceOf, StandardStack},
    testing::{Flaky, Step},
    timeout::TimeoutLayer,
};
use tower::{
    Layer, Service, ServiceExt,
    layer::{layer_fn, util::Identity},
    service_fn,
    util::{MapRequestLayer, option_layer},
};

use self::stacks::{ATTEMPT, Failure, TOTAL, breaker, broken, kind, retry};

type Text = &'static str;

// Open slots.

/// A layer that counts the calls of its service, and the errors that pass through it.
#[derive(Clone, Debug, Default)]
struct Count {
    calls: Arc<AtomicU32>,
    rejected: Arc<Mutex<Vec<&'static str>>>,
}

#[derive(Clone, Debug)]
struct Counted<S> {
    inner: S,
    count: Count,
}

impl<S> Layer<S> for Count {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, count: self.clone() }
    }
}

impl<S, Req> Service<Req> for Counted<S>
where
    S: Service<Req, Future: Send + 'static, Error: CarryRejection>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        self.count.calls.fetch_add(1, Ordering::Relaxed);
        let (call, rejected) = (self.inner.call(request), Arc::clone(&self.count.rejected));
        Box::pin(async move {
            let result = call.await;
            if let Some(rejection) = result.as_ref().err().and_then(CarryRejection::rejection) {
                rejected.lock().unwrap().push(rejection.kind());
            }
            result
        })
    }
}

#[tokio::test(start_paused = true)]
async fn around_call_sees_what_the_caller_sees_and_around_attempt_each_attempt() {
    let (call, attempt) = (Count::default(), Count::default());
    let inner = Flaky::new((0..10).map(|_| Step::Hang), || Ok::<_, io::Error>(()));
    let stack = Stack::new().around_attempt(attempt.clone()).retry(retry()).total_timeout(TOTAL);
    let stack = stack.around_call(call.clone()).attempt_timeout(ATTEMPT);
    let service = stack.service::<_, (), _>(inner);
    assert_eq!(kind(service.oneshot(()).await), "timed_out");
    assert_eq!(call.calls.load(Ordering::Relaxed), 1);
    assert_eq!(*call.rejected.lock().unwrap(), ["timed_out"]);
    // The slot is inside the attempt timeout, which drops the call. No rejection passes through
    // it.
    assert_eq!(attempt.calls.load(Ordering::Relaxed), 3);
    assert_eq!(*attempt.rejected.lock().unwrap(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn open_slots_take_layers_that_are_closures() {
    let inner = service_fn(|x: u32| async move { Ok::<_, io::Error>(x + 1) });
    let service = Stack::standard(ReplayClones)
        .around_call(layer_fn(|service| Counted { inner: service, count: Count::default() }))
        .around_attempt(MapRequestLayer::new(|x: u32| x * 10))
        .service(inner);
    assert_eq!(service.oneshot(1).await.unwrap(), 11);
}

#[tokio::test(start_paused = true)]
async fn the_request_is_inferred_from_a_layer_where_the_service_takes_any() {
    let anything = || Flaky::new([], || Ok::<_, io::Error>("answer"));
    let replay = RetryLayer::new(replay_fn(|path: &&'static str| Some(*path)));
    let service = Stack::new().retry(replay).service(anything());
    assert_eq!(service.oneshot("/").await.unwrap(), "answer");
    let layer = MapRequestLayer::new(|path: &'static str| path);
    let service = Stack::new().around_call(layer).service(anything());
    assert_eq!(service.oneshot("/").await.unwrap(), "answer");
}

// Optional slots.

/// The settings that a program reads from its configuration.
#[derive(Default)]
struct Settings {
    total: Option<Duration>,
    attempt: Option<TimeoutLayer>,
    retry: Option<RetryLayer<ReplayClones>>,
    bulkhead: Option<BulkheadLayer>,
    breaker: Option<CircuitBreakerLayer>,
}

macro_rules! from_settings {
    ($settings:expr) => {
        Stack::new()
            .total_timeout($settings.total)
            .retry($settings.retry)
            .bulkhead($settings.bulkhead)
            .circuit_breaker($settings.breaker)
            .attempt_timeout($settings.attempt)
    };
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_was_given_none_is_empty() {
    let stack = from_settings!(Settings::default());
    assert_eq!(stack.explain().to_string(), Stack::new().explain().to_string());
    let inner = Flaky::new([Step::Respond(Err(broken()))], || Ok::<_, io::Error>("answer"));
    let service = stack.service::<_, (), _>(inner);
    assert!(matches!(service.clone().oneshot(()).await, Err(Error::Service(_))));
    assert_eq!(service.oneshot(()).await.unwrap(), "answer");
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_was_given_some_layer_has_it() {
    let settings = Settings {
        total: Some(TOTAL),
        attempt: Some(TimeoutLayer::new(ATTEMPT)),
        retry: Some(retry()),
        bulkhead: Some(BulkheadLayer::default()),
        breaker: Some(breaker(100)),
    };
    let stack = from_settings!(settings);
    let plain = Stack::new().total_timeout(TOTAL).retry(retry()).bulkhead(BulkheadLayer::default());
    let plain = plain.circuit_breaker(breaker(100)).attempt_timeout(ATTEMPT);
    assert_eq!(stack.explain().to_string(), plain.explain().to_string());
    let inner = Flaky::new((0..10).map(|_| Step::Hang), || Ok::<_, io::Error>(()));
    let handle = inner.handle();
    assert_eq!(kind(stack.service::<_, (), _>(inner).oneshot(()).await), "timed_out");
    assert_eq!(handle.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_open_slot_takes_towers_optional_layer() {
    for (layer, calls) in [(None, 0), (Some(Count::default()), 1)] {
        let inner = service_fn(|x: u32| async move { Ok::<_, io::Error>(x + 1) });
        let stack = Stack::new().around_attempt(option_layer(layer.clone()));
        assert_eq!(stack.service(inner).oneshot(1).await.unwrap(), 2);
        let seen = layer.map_or(0, |count| count.calls.load(Ordering::Relaxed));
        assert_eq!(seen, calls);
    }
}

// Types that can be named.

#[derive(Clone)]
struct Length;

impl Service<String> for Length {
    type Response = usize;
    type Error = io::Error;
    type Future = Ready<Result<usize, io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, path: String) -> Self::Future {
        std::future::ready(Ok(path.len()))
    }
}

struct Written {
    stack: StandardStack<ReplayClones>,
    service: ServiceOf<StandardStack<ReplayClones>, Length, io::Error>,
    boxed: BoxedServiceOf<StandardStack<ReplayClones>, Length>,
}

#[tokio::test(start_paused = true)]
async fn stacks_and_their_services_can_be_written_in_a_struct() {
    let stack = Stack::standard(ReplayClones);
    let service = stack.clone().service(Length);
    let written = Written { service, boxed: stack.clone().boxed(Length), stack };
    assert_eq!(written.service.oneshot("four".to_owned()).await.unwrap(), 4);
    assert_eq!(written.boxed.oneshot("four".to_owned()).await.unwrap(), 4);
    assert_eq!(written.stack.service(Length).oneshot("four".to_owned()).await.unwrap(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_stack_goes_around_a_stack_as_a_layer() {
    let inner = Flaky::new([], || Ok::<_, io::Error>("answer"));
    let service = Stack::new().attempt_timeout(ATTEMPT).service::<_, (), _>(inner);
    let open = breaker(1);
    open.handle().force_open();
    let outer = Stack::new().circuit_breaker(open).layer(service.clone());
    let answer: Result<&str, Failure> = outer.oneshot(()).await;
    assert_eq!(kind(answer), "circuit_open");
    let outer = Stack::new().retry(retry()).layer(service);
    assert_eq!(outer.oneshot(()).await.unwrap(), "answer");
}

#[cfg(feature = "http")]
/// Lists the rules that a stack breaks.
macro_rules! rules {
    ($stack:expr) => {
        $stack.explain().warnings().iter().map(|warning| warning.rule()).collect::<Vec<_>>()
    };
}

#[cfg(feature = "http")]
mod over_http {
    use buttress::http::{HttpStack, HttpStackService, ReplaySafe};
    use http::{Request, Response};

    use super::*;

    #[derive(Clone)]
    struct Hello;

    impl Service<Request<String>> for Hello {
        type Response = Response<String>;
        type Error = io::Error;
        type Future = Ready<Result<Response<String>, io::Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<String>) -> Self::Future {
            std::future::ready(Ok(Response::new("hello".to_owned())))
        }
    }

    struct Written {
        stack: HttpStack,
        service: HttpStackService<Hello, io::Error>,
    }

    #[tokio::test(start_paused = true)]
    async fn stacks_of_http_can_be_written_in_a_struct() {
        let stack = Stack::standard_http();
        let written = Written { service: stack.clone().service(Hello), stack };
        for service in [written.service, written.stack.service(Hello)] {
            assert_eq!(service.oneshot(Request::default()).await.unwrap().status(), 200);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn layers_in_open_slots_see_requests_of_http() {
        let attempts = Count::default();
        let sign = MapRequestLayer::new(|mut request: Request<String>| {
            request.headers_mut().insert("signature", "abc".parse().unwrap());
            request
        });
        let client = service_fn(|request: Request<String>| async move {
            assert!(request.headers().contains_key("signature"));
            Ok::<_, io::Error>(Response::new(String::new()))
        });
        let stack = Stack::standard_http().around_call(attempts.clone()).around_attempt(sign);
        assert_eq!(stack.service(client).oneshot(Request::default()).await.unwrap().status(), 200);
        assert_eq!(attempts.calls.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_replay_policy_for_http_is_warned_of_without_http() {
        let retry = || RetryLayer::new(ReplaySafe::new());
        let rule = ["replay_without_http"];
        assert_eq!(rules!(Stack::standard(ReplaySafe::new())), rule);
        assert_eq!(rules!(Stack::standard(ReplayClones).retry(Some(retry()))), rule);
        assert_eq!(rules!(Stack::standard(ReplayClones)), [""; 0]);
        assert_eq!(rules!(Stack::standard_http()), [""; 0]);
        assert_eq!(rules!(Stack::standard_http().retry(retry())), [""; 0]);
        let anything = replay_fn(|_: &Request<String>| None);
        assert_eq!(rules!(Stack::standard(anything)), [""; 0]);
        assert_eq!(rules!(Stack::standard(anything).http()), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_optional_retry_goes_over_http_in_both_orders() {
        let retry = || Some(RetryLayer::new(ReplaySafe::new()));
        let one = Stack::new().retry(retry()).http().service(Hello);
        assert_eq!(one.oneshot(Request::default()).await.unwrap().status(), 200);
        let other = Stack::new().http().retry(retry()).service(Hello);
        assert_eq!(other.oneshot(Request::default()).await.unwrap().status(), 200);
    }
}

#[test]
fn an_explanation_says_where_layers_of_the_user_stand() {
    let stack = Stack::standard(ReplayClones);
    let stack = stack.around_attempt(Identity::new());
    assert_eq!(stack.explain().worst_time(), Some(Duration::from_secs(5)));
    let explanation = stack.around_call(Identity::new()).explain();
    // The layer may wait outside the total timeout.
    assert_eq!(explanation.worst_time(), None);
    let text = explanation.to_string();
    let at = |name: &str| text.find(name).unwrap_or_else(|| panic!("no {name} in {text}"));
    assert!(at("around_call") < at("total timeout"), "{text}");
    assert!(at("attempt timeout") < at("around_attempt"), "{text}");
}

#[test]
fn an_explanation_has_its_lines_from_the_outermost_layer_to_the_innermost() {
    let cache = CacheLayer::by_fn(|_: &u32| Some(1))
        .ttl_fn(|_: &Text| None)
        .if_error(60 * TOTAL)
        .build()
        .unwrap();
    let stack = Stack::standard(ReplayClones)
        .fallback(FallbackLayer::value("none"))
        .cache(cache)
        .around_attempt(Identity::new())
        .around_call(Identity::new());
    let expected = [
        "outermost first:",
        "  around_call      a layer of your own; its time and its calls are not known",
        "  fallback         a value",
        "  cache            keeps responses for up to 60s, gives older ones for 6s if a \
         call fails",
        "  total timeout    up to 5s",
        "  retry            up to 3 retries, at most 350ms of pauses, a budget of 10 % of \
         the calls",
        "  bulkhead         256 concurrent calls, then rejects",
        "  circuit breaker  opens when 50 % of the calls in the last 10s failed (at least 20 \
         calls); then rejects for 30s",
        "  attempt timeout  up to 2s",
        "  around_attempt   a layer of your own; its time and its calls are not known",
        "longest call: no bound is known",
        "full-length attempts within the total timeout: 2",
        "most attempts for one call: 4; 1.10 on average, limited by the budget",
        "on a server, a fallback and a cache stand around a handler, not in its stack",
        "a call that its caller cuts is a failure if nobody had a response for 10s and it ran \
         longer than responses take",
        "  (before the first response, if it ran for 2s, or a server's limit)",
        "the breaker does not see (nothing to set):",
        "  a hang of some calls, if only callers in a hurry meet it",
        "  a hang after the head of a response, if readers leave before a limit of the body",
        "  a hang whose callers all leave before a call runs long (4 mean deviations above the \
         mean time of a response)",
        "  a hang from the start whose callers all leave within 2s, or a server's limit",
        "  a dependency that never becomes ready",
        "  a hang with fewer than 20 calls in its window, or pauses of 10s between calls",
        "the breaker takes for a hang: a slow route that only callers in a hurry call for 10s",
    ];
    let text = stack.explain().to_string();
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
}
