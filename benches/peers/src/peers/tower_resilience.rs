//! tower-resilience 0.13 with the features of its patterns only.
//!
//! Neither `tracing` nor `metrics` is enabled, and no pattern requires them.

use std::fmt::Display;
use std::time::Duration;

use tower::Layer;
use tower_resilience::bulkhead::{BulkheadLayer, BulkheadServiceError};
use tower_resilience::cache::CacheLayer;
use tower_resilience::circuitbreaker::{
    CircuitBreaker, CircuitBreakerConfigBuilder, CircuitBreakerError, CircuitBreakerLayer,
    DefaultClassifier, SlidingWindowType,
};
use tower_resilience::coalesce::CoalesceLayer;
use tower_resilience::fallback::FallbackLayer;
use tower_resilience::retry::{RetryBudgetBuilder, RetryConfigBuilder, RetryLayer};
use tower_resilience::timelimiter::TimeLimiterLayer;

use super::{
    CONCURRENT, COUNT_WINDOW, FALLBACK, KEPT_FOR, LIMIT, MINIMUM_CALLS, OPEN_FOR, SLOW,
    TIME_WINDOW, key,
};
use crate::backend::{Backend, Down, Request, Subject, Unavailable};
use crate::measure::Harness;

type Breaker = CircuitBreaker<Backend, DefaultClassifier>;

fn time_limiter() -> TimeLimiterLayer {
    TimeLimiterLayer::builder().timeout_duration(LIMIT).build()
}

fn budgeted<E: 'static>() -> RetryConfigBuilder<Request, u64, E> {
    let budget =
        RetryBudgetBuilder::new().token_bucket().tokens_per_second(10.0).max_tokens(100).build();
    RetryLayer::exponential_backoff().max_attempts(4).budget(budget.expect("a valid budget"))
}

/// Uses `reject_when_full`, like all its presets and like buttress.
fn bulkhead_layer() -> BulkheadLayer {
    BulkheadLayer::builder()
        .max_concurrent_calls(CONCURRENT)
        .reject_when_full()
        .build()
        .expect("a valid bulkhead")
}

fn breaker_builder() -> CircuitBreakerConfigBuilder<DefaultClassifier> {
    CircuitBreakerLayer::builder()
        .failure_rate_threshold(0.5)
        .sliding_window_size(COUNT_WINDOW)
        .minimum_number_of_calls(MINIMUM_CALLS)
        .wait_duration_in_open(OPEN_FOR)
}

fn count_breaker() -> Breaker {
    breaker_builder().build().expect("a valid breaker").layer(Backend::new())
}

fn time_breaker(window: Duration) -> Breaker {
    let layer = breaker_builder()
        .sliding_window_type(SlidingWindowType::TimeBased)
        .sliding_window_duration(window)
        .slow_call_duration_threshold(SLOW)
        .slow_call_rate_threshold(0.5)
        .build();
    layer.expect("a valid breaker").layer(Backend::new())
}

/// Builds timeout > retry > bulkhead > breaker.
///
/// The retry ignores rejections, as its composition guide recommends.
fn stack(breaker: Breaker) -> impl Subject {
    let retry: RetryLayer<Request, u64, BulkheadServiceError<CircuitBreakerError<Unavailable>>> =
        budgeted()
            .retry_on(|error| {
                matches!(error, BulkheadServiceError::Inner(CircuitBreakerError::Inner(_)))
            })
            .build();
    time_limiter().layer(retry.layer(bulkhead_layer().layer(breaker)))
}

pub fn timeout() -> impl Subject {
    time_limiter().layer(Backend::<Unavailable>::new())
}

pub fn retry() -> impl Subject {
    budgeted::<Unavailable>().build().layer(Backend::<Unavailable>::new())
}

pub fn bulkhead() -> impl Subject {
    bulkhead_layer().layer(Backend::<Unavailable>::new())
}

pub fn breaker() -> impl Subject {
    count_breaker()
}

pub fn breaker_time_window(window: Duration) -> impl Subject {
    time_breaker(window)
}

pub fn breaker_open(harness: &Harness) -> impl Subject {
    harness.opened(count_breaker())
}

pub fn stack4() -> impl Subject {
    stack(count_breaker())
}

pub fn stack4_time_window() -> impl Subject {
    stack(time_breaker(TIME_WINDOW))
}

pub fn stack4_rejected(harness: &Harness) -> impl Subject {
    stack(harness.opened(count_breaker()))
}

pub fn fallback() -> impl Subject {
    FallbackLayer::<Request, u64, Unavailable>::value(FALLBACK).layer(Backend::new())
}

pub fn fallback_used() -> impl Subject {
    FallbackLayer::<Request, u64, Unavailable>::value(FALLBACK).layer(Down::new())
}

pub fn cache() -> impl Subject {
    let cache = CacheLayer::builder().max_size(1_000).ttl(KEPT_FOR).key_extractor(key);
    cache.build().expect("a valid cache").layer(Backend::<Unavailable>::new())
}

/// Returns a service whose concurrent calls with the same key share one call of `inner`.
pub fn coalesced<S>(inner: S) -> impl Subject<Error: Display + Send, Future: Send>
where
    S: Subject<Error: Clone + Display + Send + 'static, Future: Send>,
{
    CoalesceLayer::new(key).layer(inner)
}
