use std::time::{Duration, SystemTime};

use http::{
    HeaderMap, HeaderName,
    header::{DATE, RETRY_AFTER},
};

use super::line::{Parsed, U32_DIGITS, U64_DIGITS, number, read, trim};

/// `grpc-retry-pushback-ms`: the time to wait before a retry, or the advice not to retry.
pub const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// `x-should-retry`: `false` is the advice not to retry.
pub const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// `x-envoy-ratelimited`: keeps an Envoy from retrying, with any value.
pub const RATELIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

/// The longest wait that [`retry_after`] returns: 365 days.
///
/// A server that asks for a longer wait means never. A year has the same effect, and adding it to
/// the time of a clock does not overflow.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The value of `grpc-retry-pushback-ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushback {
    /// The response has no such header.
    Absent,
    /// Retry, but not before this much time has passed.
    After(Duration),
    /// Do not retry.
    Stop,
    /// The value is malformed. Do not retry.
    ///
    /// gRPC proposal A6 requires this. The server asked for something, and not to retry is the safe
    /// guess.
    Malformed,
}

impl Pushback {
    /// Returns whether the value forbids a retry.
    pub fn stops(self) -> bool {
        matches!(self, Self::Stop | Self::Malformed)
    }
}

/// Reads `grpc-retry-pushback-ms`, a signed 32-bit integer on one line.
///
/// Two lines are malformed even if they agree. A number that does not fit is malformed too.
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

/// Reads the time to wait from `Retry-After`.
///
/// If there are several lines, the longest wait counts, because the server asked callers not to
/// retry early.
///
/// A date is measured against the `Date` of the same response. Both come from one clock, and an
/// error of that clock or of the local clock does not matter. The time that the response spent on
/// its way is not subtracted, which at worst lengthens the wait. If the response has no readable
/// `Date`, the date is measured against the system clock. A date in the past is a wait of zero. No
/// wait is longer than [`LONGEST_RETRY_AFTER`].
///
/// All three date formats of HTTP are accepted.
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

/// Parses seconds with any number of digits. A number that is too large becomes the largest one.
fn seconds(text: &[u8]) -> Option<Duration> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(Duration::from_secs(number(text, U64_DIGITS).unwrap_or(u64::MAX)))
}

fn date(text: &[u8]) -> Option<SystemTime> {
    httpdate::parse_http_date(std::str::from_utf8(text).ok()?).ok()
}

/// Returns whether `x-should-retry` asks not to retry.
///
/// It does if one of its lines is `false`, in upper or lower case. Every other value is ignored,
/// even `true`, because no server can force a retry.
pub fn should_not_retry(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(SHOULD_RETRY).iter();
    lines.any(|line| trim(line.as_bytes()).eq_ignore_ascii_case(b"false"))
}
