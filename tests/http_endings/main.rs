//! Tests of calls that end with the body of their response, over sockets of hyper.
//!
//! The sockets and the clock are real. A test that needs the time of a limit to pass pauses the
//! clock, which then advances by itself when no task can run.

#![cfg(feature = "http")]

mod client;
mod drained;
#[allow(dead_code, reason = "the tests on a paused clock need more of it")]
#[path = "../http_body/script.rs"]
mod script;
mod server;
mod unread;
mod wire;

use std::time::Duration;

use buttress::{
    bulkhead::{BulkheadHandle, BulkheadLayer},
    circuit_breaker::{CircuitBreakerHandle, CircuitBreakerLayer},
};
use tokio::time::Instant;

use self::script::Feed;

/// The limit of a body that stalls.
const IDLE: Duration = Duration::from_secs(30);

/// A bulkhead and a breaker, and what they hold.
struct Books {
    slots: BulkheadLayer,
    breaker: CircuitBreakerLayer,
}

impl Books {
    fn new() -> Self {
        let breaker = CircuitBreakerLayer::builder().count_window(10).minimum_calls(10);
        Self { slots: BulkheadLayer::default(), breaker: breaker.build().unwrap() }
    }

    fn handles(&self) -> Handles {
        Handles { slots: self.slots.handle(), breaker: self.breaker.handle() }
    }
}

#[derive(Clone)]
struct Handles {
    slots: BulkheadHandle,
    breaker: CircuitBreakerHandle,
}

impl Handles {
    /// Returns the taken slots, and the calls and failures that the breaker has counted.
    fn seen(&self) -> (u32, u64, u64) {
        let breaker = self.breaker.snapshot();
        (self.slots.in_flight(), breaker.calls(), breaker.failures())
    }

    /// Waits until these values are seen, because data over a socket may arrive late.
    async fn until(&self, expected: (u32, u64, u64)) {
        soon(|| self.seen() == expected).await;
        assert_eq!(self.seen(), expected);
    }
}

/// Waits until the condition holds, but not without end.
async fn soon(is_so: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if is_so() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Waits until the server has dropped its body.
async fn dropped(feed: &Feed) {
    soon(|| feed.is_dropped()).await;
    assert!(feed.is_dropped());
}

/// Asserts that a limit has ended a wait that began between two readings of the clock.
///
/// The clock is real until the second reading, and paused from then on.
fn assert_ended_after(limit: Duration, before: Instant, after: Instant) {
    assert!(before.elapsed() >= limit, "too early: {:?}", before.elapsed());
    assert!(after.elapsed() < limit + Duration::from_secs(1), "too late: {:?}", after.elapsed());
}

const UNDER_WAY: (u32, u64, u64) = (1, 0, 0);
const SUCCESS: (u32, u64, u64) = (0, 1, 0);
const FAILURE: (u32, u64, u64) = (0, 1, 1);
const CANCELLED: (u32, u64, u64) = (0, 0, 0);
