//! seatbelt 0.11 in its tower mode.
//!
//! It has no bulkhead and no budget. Its only breaker counts over time, without slow calls, and
//! is used in the count rows too. Its clock is the one for tokio, which must be built within a
//! runtime.

use std::time::Duration;

use ::seatbelt::breaker::Breaker;
use ::seatbelt::retry::Retry;
use ::seatbelt::timeout::Timeout;
use ::seatbelt::{RecoveryInfo, ResilienceContext};
use tick::Clock;
use tower::Layer;

use super::{LIMIT, MINIMUM_CALLS, OPEN_FOR, TIME_WINDOW, small};
use crate::backend::{Backend, Request, Subject, Unavailable};
use crate::measure::Harness;

type Answer = Result<u64, Unavailable>;

fn context() -> ResilienceContext<Request, Answer> {
    let context = ResilienceContext::new(Clock::new_tokio()).name("peers");
    #[cfg(feature = "telemetry")]
    let context = context.use_metrics(super::telemetry::provider());
    context
}

fn recovery(answer: &Answer) -> RecoveryInfo {
    match answer {
        Ok(_) => RecoveryInfo::never(),
        Err(_) => RecoveryInfo::retry(),
    }
}

pub fn timeout() -> impl Subject {
    Timeout::layer("timeout", &context())
        .timeout(LIMIT)
        .timeout_error(|_| Unavailable)
        .layer(Backend::<Unavailable>::new())
}

pub fn retry() -> impl Subject {
    Retry::layer("retry", &context())
        .clone_input()
        .recovery_with(|answer, _| recovery(answer))
        .layer(Backend::<Unavailable>::new())
}

/// Builds timeout > retry > breaker, because it has no bulkhead.
#[allow(dead_code, reason = "only the binary `telemetry` measures it")]
pub fn stack3_time_window() -> impl Subject {
    let context = context();
    let breaker = Breaker::layer("breaker", &context)
        .recovery_with(|answer, _| recovery(answer))
        .rejected_input_error(|_, _| Unavailable)
        .failure_threshold(0.5)
        .min_throughput(small(MINIMUM_CALLS))
        .sampling_duration(TIME_WINDOW)
        .break_duration(OPEN_FOR)
        .layer(Backend::<Unavailable>::new());
    let retry = Retry::layer("retry", &context)
        .clone_input()
        .recovery_with(|answer, _| recovery(answer))
        .layer(breaker);
    Timeout::layer("timeout", &context).timeout(LIMIT).timeout_error(|_| Unavailable).layer(retry)
}

pub fn breaker(window: Duration) -> impl Subject {
    Breaker::layer("breaker", &context())
        .recovery_with(|answer, _| recovery(answer))
        .rejected_input_error(|_, _| Unavailable)
        .failure_threshold(0.5)
        .min_throughput(small(MINIMUM_CALLS))
        .sampling_duration(window)
        .break_duration(OPEN_FOR)
        .layer(Backend::<Unavailable>::new())
}

pub fn breaker_open(harness: &Harness, window: Duration) -> impl Subject {
    harness.opened(breaker(window))
}
