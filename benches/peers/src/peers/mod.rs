//! The other side of each row: one file a peer, each set up as its own documentation says.
//!
//! Where two crates have the same knob they get the same value: 5 s timeout, 256 calls at once, 50
//! % failures of at least 20 calls, the last 100 calls or the last 10 s, slow is a second.

use std::time::Duration;

pub mod failsafe;
pub mod recloser;
pub mod seatbelt;
pub mod tower_own;
pub mod tower_resilience;

pub const LIMIT: Duration = Duration::from_secs(5);
pub const CONCURRENT: usize = 256;
pub const COUNT_WINDOW: usize = 100;
pub const TIME_WINDOW: Duration = Duration::from_secs(10);
/// Long enough that filling it with 100,000 calls and measuring does not push a call out, whatever
/// a call costs.
pub const LONG_WINDOW: Duration = Duration::from_secs(300);
pub const MINIMUM_CALLS: usize = 20;
pub const SLOW: Duration = Duration::from_secs(1);
/// Breakers that are to be measured open stay so.
pub const OPEN_FOR: Duration = Duration::from_secs(3_600);

pub fn small(number: usize) -> u32 {
    u32::try_from(number).expect("a small number")
}
