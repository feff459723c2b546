//! The peers of each row, one file for each, configured as their documentation says.
//!
//! A setting that two crates share has the same value: a timeout of 5 s, 256 concurrent calls, a
//! failure rate of 50 % of at least 20 calls, a window of 100 calls or 10 s, and 1 s for a slow
//! call.

use std::time::Duration;

use crate::backend::Request;

pub mod failsafe;
pub mod moka;
pub mod recloser;
pub mod seatbelt;
#[cfg(feature = "telemetry")]
pub mod telemetry;
pub mod tower_own;
pub mod tower_resilience;

pub const LIMIT: Duration = Duration::from_secs(5);
pub const CONCURRENT: usize = 256;
pub const COUNT_WINDOW: usize = 100;
pub const TIME_WINDOW: Duration = Duration::from_secs(10);
/// The window of the cases with up to 100,000 calls.
///
/// It is so long that no call leaves it while it is filled and measured, whatever a call costs.
pub const LONG_WINDOW: Duration = Duration::from_secs(300);
pub const MINIMUM_CALLS: usize = 20;
pub const SLOW: Duration = Duration::from_secs(1);
/// The open time of breakers that must stay open while they are measured.
pub const OPEN_FOR: Duration = Duration::from_secs(3_600);

/// The time for which a cache keeps a response, which is longer than any measurement.
pub const KEPT_FOR: Duration = Duration::from_secs(3_600);
/// The response of a fallback.
pub const FALLBACK: u64 = 7;

/// Returns the key of a request in a cache. After 16 calls, each call is a hit.
pub fn key(request: &Request) -> u64 {
    request.0 % 16
}

pub fn small(number: usize) -> u32 {
    u32::try_from(number).expect("a small number")
}
