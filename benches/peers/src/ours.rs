//! Buttress's side, configured like the peers.

use std::time::Duration;

use buttress::bulkhead::BulkheadLayer;
use buttress::cache::CacheLayer;
use buttress::chaos::ChaosLayer;
use buttress::circuit_breaker::CircuitBreakerLayer;
use buttress::endpoints::Endpoints;
use buttress::fallback::FallbackLayer;
use buttress::retry::{Backoff, Budget, ReplayClones, RetryLayer};
use buttress::telemetry::Registry;
use buttress::timeout::TimeoutLayer;
use buttress::{Error, Stack};
use tower::Layer;

use crate::backend::{Backend, Down, Request, Subject, Unavailable};
use crate::measure::Harness;
use crate::peers::{
    CONCURRENT, COUNT_WINDOW, FALLBACK, KEPT_FOR, LIMIT, MINIMUM_CALLS, OPEN_FOR, SLOW,
    TIME_WINDOW, key, small,
};

pub type Inner = Backend<Error<Unavailable>>;

fn retry_layer() -> RetryLayer<ReplayClones> {
    RetryLayer::builder(ReplayClones)
        .retries(3)
        .backoff(Backoff::default())
        .budget(Budget::default())
        .build()
        .expect("valid settings")
}

fn bulkhead_layer() -> BulkheadLayer {
    BulkheadLayer::builder().max_concurrent(small(CONCURRENT)).build().expect("valid settings")
}

fn count_layer() -> CircuitBreakerLayer {
    CircuitBreakerLayer::builder()
        .count_window(small(COUNT_WINDOW))
        .minimum_calls(small(MINIMUM_CALLS))
        .failure_rate(0.5)
        .open_for(OPEN_FOR)
        .max_open_for(OPEN_FOR)
        .build()
        .expect("valid settings")
}

fn time_layer(window: Duration) -> CircuitBreakerLayer {
    CircuitBreakerLayer::builder()
        .time_window(window)
        .minimum_calls(small(MINIMUM_CALLS))
        .failure_rate(0.5)
        .slow_calls(SLOW, 0.5)
        .build()
        .expect("valid settings")
}

/// Builds timeout > retry > bulkhead > breaker by hand, in the order of the peer.
macro_rules! stack {
    ($breaker:expr) => {
        TimeoutLayer::new(LIMIT).layer(retry_layer().layer(bulkhead_layer().layer($breaker)))
    };
}

pub fn timeout() -> impl Subject {
    TimeoutLayer::new(LIMIT).layer(Inner::new())
}

pub fn retry() -> impl Subject {
    retry_layer().layer(Inner::new())
}

pub fn bulkhead() -> impl Subject {
    bulkhead_layer().layer(Inner::new())
}

pub fn breaker() -> impl Subject {
    count_layer().layer(Inner::new())
}

pub fn breaker_time_window(window: Duration) -> impl Subject {
    time_layer(window).layer(Inner::new())
}

pub fn breaker_open(harness: &Harness) -> impl Subject {
    harness.opened(breaker())
}

pub fn stack4() -> impl Subject {
    stack!(count_layer().layer(Inner::new()))
}

pub fn stack4_time_window() -> impl Subject {
    stack!(time_layer(TIME_WINDOW).layer(Inner::new()))
}

/// Returns the same stack with a span around it, and a registry that counts its calls.
#[allow(dead_code, reason = "only the binary `telemetry` measures it")]
pub fn stack4_registered(registry: Option<&Registry>) -> impl Subject + use<> {
    let stack = Stack::new()
        .name("peers")
        .total_timeout(LIMIT)
        .retry(retry_layer())
        .bulkhead(bulkhead_layer())
        .circuit_breaker(time_layer(TIME_WINDOW));
    let stack = match registry {
        Some(registry) => stack.register(registry),
        None => stack,
    };
    stack.layer(Inner::new())
}

pub fn stack4_rejected(harness: &Harness) -> impl Subject {
    let breaker = count_layer();
    // Clones of a layer share the breaker. It is opened beneath the retry, which would wait.
    drop(harness.opened(breaker.layer(Inner::new())));
    stack!(breaker.layer(Inner::new()))
}

pub fn fallback() -> impl Subject {
    FallbackLayer::value(FALLBACK).layer(Inner::new())
}

pub fn fallback_used() -> impl Subject {
    FallbackLayer::value(FALLBACK).layer(Down::<Error<Unavailable>>::new())
}

pub fn cache() -> impl Subject {
    let cache = CacheLayer::by_fn(|request: &Request| Some(key(request))).ttl(KEPT_FOR);
    cache.build().expect("valid settings").layer(Inner::new())
}

pub fn endpoints(count: u32) -> impl Subject {
    Endpoints::new(0..count, |_: &u32| Backend::<Unavailable>::new())
}

pub fn chaos_disarmed() -> impl Subject {
    let chaos = ChaosLayer::builder().hangs(0.5).lost_responses(0.5);
    chaos.build().expect("valid settings").layer(Inner::new())
}
