use std::time::{Duration, SystemTime};

use http::{
    HeaderMap, HeaderName,
    header::{DATE, RETRY_AFTER},
};

use super::line::{Parsed, U32_DIGITS, U64_DIGITS, number, read, trim};

/// `grpc-retry-pushback-ms`: how long to wait before a retry, or not to retry.
pub const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// `x-should-retry`: `false` asks not to retry.
pub const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// `x-envoy-ratelimited`: keeps an Envoy from retrying, whatever its value.
pub const RATELIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

/// The longest wait that [`retry_after`] returns: 365 days. Whoever asks for more means never, and
/// this is never enough, while it can still be added to any clock.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What `grpc-retry-pushback-ms` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushback {
    /// Nothing: the answer has no such header.
    Absent,
    /// Retry, but not before this much time has gone by.
    After(Duration),
    /// Do not retry.
    Stop,
    /// Do not retry either: something was meant, and it cannot be understood. gRPC's proposal A6 wants
    /// it so, since of all that a server in trouble can mean, leaving it alone is the safe guess.
    Malformed,
}

impl Pushback {
    /// Whether it forbids a retry.
    pub fn stops(self) -> bool {
        matches!(self, Self::Stop | Self::Malformed)
    }
}

/// What `grpc-retry-pushback-ms` says: it is a whole number of 32 bits, on one line.
///
/// Two lines are malformed even if they agree, and so is a number that does not fit, negative or not.
pub fn pushback(headers: &HeaderMap) -> Pushback {
    let mut lines = headers.get_all(PUSHBACK).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Pushback::Absent,
        (Some(line), None) => parse_pushback(trim(line.as_bytes())).unwrap_or(Pushback::Malformed),
        (Some(_), Some(_)) => Pushback::Malformed,
    }
}

fn parse_pushback(text: &[u8]) -> Option<Pushback> {
    if let [b'-', digits @ ..] = text {
        let fits = number(digits, U32_DIGITS)? <= u64::from(i32::MIN.unsigned_abs());
        return fits.then_some(Pushback::Stop);
    }
    let millis = i32::try_from(number(text, U32_DIGITS)?).ok()?;
    Some(Pushback::After(Duration::from_millis(u64::from(millis.unsigned_abs()))))
}

/// How long to wait before coming back, by `Retry-After`; of several lines the longest wait counts,
/// since coming back early is what the server asked not to be done.
///
/// A date is measured against the `Date` of the same answer: both come from one clock, so it does not
/// matter how wrong that clock is, nor how wrong ours. What the answer spent on its way is not taken
/// off, which at worst makes the wait longer. Only an answer without a readable `Date` is measured
/// against the system's clock. A date in the past is no wait at all, and no wait is longer than
/// [`LONGEST_RETRY_AFTER`].
///
/// All three forms of a date that HTTP knows are understood.
pub fn retry_after(headers: &HeaderMap) -> Parsed<Duration> {
    retry_after_by(headers, SystemTime::now)
}

pub(super) fn retry_after_by(
    headers: &HeaderMap,
    now: impl Fn() -> SystemTime,
) -> Parsed<Duration> {
    let parse = |text: &[u8]| {
        let wait = match seconds(text) {
            Some(wait) => wait,
            None => {
                let until = date(text)?;
                let from = headers.get_all(DATE).iter().find_map(|line| date(line.as_bytes()));
                until.duration_since(from.unwrap_or_else(&now)).unwrap_or(Duration::ZERO)
            }
        };
        Some(wait.min(LONGEST_RETRY_AFTER))
    };
    read(headers, RETRY_AFTER, parse, Duration::max)
}

/// Seconds of any number of digits: HTTP wants a number that is too large to be taken for a large one.
fn seconds(text: &[u8]) -> Option<Duration> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(Duration::from_secs(number(text, U64_DIGITS).unwrap_or(u64::MAX)))
}

fn date(text: &[u8]) -> Option<SystemTime> {
    httpdate::parse_http_date(std::str::from_utf8(text).ok()?).ok()
}

/// Whether `x-should-retry` asks not to retry: one of its lines is `false`, in any case of letters.
///
/// Every other value is ignored, `true` above all: nothing that a server says can force a retry.
pub fn should_not_retry(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(SHOULD_RETRY).iter();
    lines.any(|line| trim(line.as_bytes()).eq_ignore_ascii_case(b"false"))
}
