//! The cases: each layer alone, and layers as they are used together.

use std::time::Duration;

use buttress::{
    Stack,
    bulkhead::BulkheadLayer,
    cache::CacheLayer,
    chaos::ChaosLayer,
    circuit_breaker::CircuitBreakerLayer,
    endpoints::Endpoints,
    fallback::FallbackLayer,
    http::{HttpClientLayer, ReplaySafe, chaos::BodyChaosLayer},
    idempotency::{IdempotencyLayer, store::MemoryStore},
    retry::{ReplayClones, RetryLayer},
    telemetry::{CallSpanLayer, Registry},
    timeout::TimeoutLayer,
};
use http::{Request, Response};
use http_body::Body;
use tokio::runtime::Builder;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    measure::{Calls, Ends, Facts, reserved},
    services::{
        Broken, Chunk, Echo, MockClient, OwnClient, OwnEcho, SlowEcho, bodiless, get, post,
    },
    subscriber::Subscribed,
};

/// A set of calls that is measured on its own.
pub struct Case {
    pub name: &'static str,
    pub kind: Kind,
    pub run: fn(Calls) -> Facts,
}

/// The kind of a case, which decides how far its instruction count may differ from its figure.
#[derive(Clone, Copy)]
pub enum Kind {
    /// One layer or none. Inlining decisions of the compiler change a large part of it.
    Lone,
    Composite,
}

const fn lone(name: &'static str, run: fn(Calls) -> Facts) -> Case {
    Case { name, kind: Kind::Lone, run }
}

const fn composite(name: &'static str, run: fn(Calls) -> Facts) -> Case {
    Case { name, kind: Kind::Composite, run }
}

/// All cases. Their names are the keys of `figures.json`.
pub const CASES: &[Case] = &[
    lone("bare", |calls| calls.to(Echo, Ends::Well)),
    lone("bare, waits", |calls| calls.to(SlowEcho, Ends::Well)),
    lone("bare http", |calls| calls.over_http(MockClient, get)),
    lone("timeout", |calls| calls.to(timeout().layer(Echo), Ends::Well)),
    lone("timeout, waits", |calls| calls.to(timeout().layer(SlowEcho), Ends::Well)),
    lone("total timeout", |calls| {
        calls.to(timeout().including_readiness().layer(Echo), Ends::Well)
    }),
    lone("retry", |calls| calls.to(retry().layer(Echo), Ends::Well)),
    lone("fallback", |calls| calls.to(FallbackLayer::value(7).layer(Echo), Ends::Well)),
    lone("fallback, used", |calls| calls.to(FallbackLayer::value(7).layer(Broken), Ends::Well)),
    lone("bulkhead", |calls| calls.to(BulkheadLayer::default().layer(Echo), Ends::Well)),
    lone("bulkhead, full", bulkhead_full),
    lone("queued bulkhead", queued_bulkhead),
    lone("breaker, count", |calls| calls.to(breaker_by_count().layer(Echo), Ends::Well)),
    lone("breaker, time", |calls| calls.to(breaker_by_time().layer(Echo), Ends::Well)),
    lone("breaker, open", |calls| calls.to(open_breaker().layer(Echo), Ends::Rejected)),
    lone("breaker, keyed", breaker_by_key),
    lone("cache, hit", cache_hit),
    lone("call span", |calls| calls.to(CallSpanLayer::new().layer(Echo), Ends::Well)),
    lone("call span, subscribed", |calls| {
        Subscribed::install();
        calls.to(CallSpanLayer::new().layer(Echo), Ends::Well)
    }),
    lone("chaos, disarmed", |calls| calls.to(chaos().layer(Echo), Ends::Well)),
    lone("chaos, disarmed, under breaker", |calls| {
        calls.to(breaker_by_count().layer(chaos().layer(Echo)), Ends::Well)
    }),
    lone("body chaos, disarmed", |calls| {
        let chaos = BodyChaosLayer::builder().cuts(1.0).build().expect("valid settings");
        calls.over_http(chaos.layer(MockClient), get)
    }),
    lone("endpoints, 10", |calls| calls.to(endpoints(10, OwnEcho::<1>), Ends::Well)),
    lone("endpoints, 10, waits", |calls| calls.to(endpoints(10, SlowEcho), Ends::Well)),
    lone("endpoints, 1000", |calls| calls.to(endpoints(1_000, OwnEcho::<1>), Ends::Well)),
    lone("http client", |calls| calls.over_http(HttpClientLayer::new().layer(MockClient), get)),
    composite("four", |calls| {
        let inner = BulkheadLayer::default().layer(breaker_by_count().layer(Echo));
        calls.to(timeout().layer(retry().layer(inner)), Ends::Well)
    }),
    composite("four, rejected", |calls| {
        let inner = BulkheadLayer::default().layer(open_breaker().layer(Echo));
        calls.to(timeout().layer(retry().layer(inner)), Ends::Rejected)
    }),
    composite("standard", |calls| calls.to(Stack::standard(ReplayClones).layer(Echo), Ends::Well)),
    composite("standard, waits", |calls| {
        calls.to(Stack::standard(ReplayClones).layer(SlowEcho), Ends::Well)
    }),
    composite("standard, registered", |calls| {
        let registry = Registry::new();
        let stack = Stack::standard(ReplayClones).name("gate").register(&registry);
        calls.to(stack.layer(Echo), Ends::Well)
    }),
    composite("standard, waits, registered", |calls| {
        let registry = Registry::new();
        let stack = Stack::standard(ReplayClones).name("gate").register(&registry);
        calls.to(stack.layer(SlowEcho), Ends::Well)
    }),
    composite("standard, rejected", |calls| {
        let stack = Stack::standard(ReplayClones).circuit_breaker(open_breaker());
        calls.to(stack.layer(Echo), Ends::Rejected)
    }),
    composite("standard, by key", |calls| {
        let template = Stack::standard(ReplayClones);
        let keyed = Stack::by_key(|request: &u64| request % 16, move |_| template.fresh());
        calls.to(keyed.build().expect("valid settings").layer(OwnEcho::<0>), Ends::Well)
    }),
    composite("standard http", |calls| {
        calls.over_http(Stack::standard(ReplaySafe::new()).http().layer(MockClient), get)
    }),
    composite("http cache, hit", http_cache_hit),
    composite("guard, claims", |calls| calls.on_runtime(guard().layer(MockClient), post)),
    composite("guard, replays", |calls| calls.on_runtime(guard().layer(MockClient), |_| post(0))),
];

fn timeout() -> TimeoutLayer {
    TimeoutLayer::new(Duration::from_secs(5))
}

/// Returns a retry layer with the default budget.
fn retry() -> RetryLayer<ReplayClones> {
    RetryLayer::new(ReplayClones)
}

fn bulkhead_full(calls: Calls) -> Facts {
    let full = BulkheadLayer::builder().max_concurrent(1).build().expect("valid settings");
    let mut holder = full.layer(Echo);
    reserved(&mut holder);
    calls.to(full.layer(Echo), Ends::Rejected)
}

fn queued_bulkhead(calls: Calls) -> Facts {
    let queued = BulkheadLayer::builder().queue(64, Duration::from_secs(1));
    calls.to(queued.build().expect("valid settings").layer(Echo), Ends::Well)
}

fn breaker_by_count() -> CircuitBreakerLayer {
    CircuitBreakerLayer::builder().count_window(100).build().expect("valid settings")
}

fn breaker_by_time() -> CircuitBreakerLayer {
    let breaker = CircuitBreakerLayer::builder().slow_calls(Duration::from_secs(1), 0.5);
    breaker.build().expect("valid settings")
}

/// Returns a breaker that one failure has opened.
fn open_breaker() -> CircuitBreakerLayer {
    let breaker = CircuitBreakerLayer::builder().consecutive_failures(1).open_for(OPEN_FOR);
    let breaker = breaker.build().expect("valid settings");
    Calls { first: 0, counted: 1 }.to(breaker.layer(Broken), Ends::Rejected);
    breaker
}

/// The open time of a breaker, which is longer than the calls of any run.
const OPEN_FOR: Duration = Duration::from_secs(300);

/// Gives a response that was kept before, because the runtime of a case runs no tasks.
fn cache_hit(calls: Calls) -> Facts {
    let cache = CacheLayer::by_fn(|_: &u64| Some(0_u64)).ttl(OPEN_FOR).build();
    let mut service = cache.expect("valid settings").layer(OwnEcho::<2>);
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    assert!(runtime.block_on(service.call(0)).is_ok());
    calls.to(service, Ends::Well)
}

/// Gives an HTTP response that was kept before, as [`cache_hit`] does.
fn http_cache_hit(calls: Calls) -> Facts {
    let cache = CacheLayer::http().ttl(OPEN_FOR).build().expect("valid settings");
    let mut service = Stack::new().http().cache(cache).layer(OwnClient);
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    assert!(runtime.block_on(service.call(bodiless(0))).is_ok());
    calls.over_http(service, bodiless)
}

fn breaker_by_key(calls: Calls) -> Facts {
    let keyed =
        CircuitBreakerLayer::builder().count_window(100).keyed_fn(|request: &u64| request % 16);
    calls.to(keyed.build().expect("valid settings").layer(Echo), Ends::Well)
}

/// Returns a layer with every fault that does not need the types of a service.
fn chaos() -> ChaosLayer {
    let chaos = ChaosLayer::builder().hangs(0.5).lost_responses(0.5);
    chaos.build().expect("valid settings")
}

fn endpoints<S: Clone + Send + Sync + 'static>(count: u32, service: S) -> Endpoints<u32, S> {
    Endpoints::new(0..count, move |_: &u32| service.clone())
}

fn guard()
-> impl Layer<MockClient, Service: Service<Request<Chunk>, Response = Response<impl Body>>> {
    IdempotencyLayer::http(MemoryStore::new()).single_tenant().build().expect("valid settings")
}
