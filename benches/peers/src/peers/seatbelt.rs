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

use super::{LIMIT, MINIMUM_CALLS, OPEN_FOR, small};
use crate::backend::{Backend, Request, Subject, Unavailable};
use crate::measure::Harness;

type Answer = Result<u64, Unavailable>;

fn context() -> ResilienceContext<Request, Answer> {
    ResilienceContext::new(Clock::new_tokio()).name("peers")
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
