//! The end of a call with the end of the body of its response, over sockets of hyper's.
//!
//! The sockets are real and the clock is too, until a test needs the time of a limit to pass: then it
//! pauses the clock, which runs on by itself as soon as nobody has anything else to do.

#![cfg(feature = "http")]

mod client;
#[path = "../http_body/script.rs"]
mod script;
mod server;
mod wire;

use buttress::{
    bulkhead::{BulkheadHandle, BulkheadLayer},
    circuit_breaker::{CircuitBreakerHandle, CircuitBreakerLayer},
};

use self::script::Feed;

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
    /// Slots that are taken, and the calls and failures that the breaker has counted.
    fn seen(&self) -> (u32, u64, u64) {
        let breaker = self.breaker.snapshot();
        (self.slots.in_flight(), breaker.calls(), breaker.failures())
    }

    /// Waits until this is seen: what comes over a socket comes when it will.
    async fn until(&self, expected: (u32, u64, u64)) {
        soon(|| self.seen() == expected).await;
        assert_eq!(self.seen(), expected);
    }
}

/// Waits until something is so, but not for ever.
async fn soon(is_so: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if is_so() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Waits until the server has let go of its body.
async fn dropped(feed: &Feed) {
    soon(|| feed.is_dropped()).await;
    assert!(feed.is_dropped());
}

const UNDER_WAY: (u32, u64, u64) = (1, 0, 0);
const SUCCESS: (u32, u64, u64) = (0, 1, 0);
const FAILURE: (u32, u64, u64) = (0, 1, 1);
const CANCELLED: (u32, u64, u64) = (0, 0, 0);
