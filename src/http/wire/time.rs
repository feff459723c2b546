use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::line::{Parsed, U64_DIGITS, number, read, written};

/// `grpc-timeout`: the time left, in gRPC.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// `x-envoy-expected-rq-timeout-ms`: the time left, which Envoy sends to its upstream.
pub const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");

/// `connect-timeout-ms`: the time left, in the Connect protocol.
pub const CONNECT_TIMEOUT: HeaderName = HeaderName::from_static("connect-timeout-ms");

/// The maximum number of digits of a `grpc-timeout`.
const GRPC_TIMEOUT_DIGITS: usize = 8;
const GRPC_TIMEOUT_MAX: u64 = 99_999_999;

/// The maximum number of digits of a `connect-timeout-ms`.
const CONNECT_TIMEOUT_DIGITS: usize = 10;

/// The largest number of ten digits. Some readers convert milliseconds to nanoseconds in a signed
/// 64-bit integer, where a larger number could become negative.
const MILLIS_MAX: u64 = 9_999_999_999;

/// Reads the time left from `grpc-timeout`.
///
/// If there are several lines, the shortest time counts.
///
/// Zero is read as no time left, although gRPC's grammar requires a positive number. Some clients
/// write zero once their deadline has passed. If zero were ignored, the call would have unlimited
/// time.
pub fn grpc_timeout(headers: &HeaderMap) -> Parsed<Duration> {
    read(headers, GRPC_TIMEOUT, parse_grpc_timeout, Duration::min)
}

fn parse_grpc_timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    let count = number(digits, GRPC_TIMEOUT_DIGITS)?;
    // Eight digits of hours are far below the largest `u64` of seconds.
    match unit {
        b'H' => Some(Duration::from_secs(count * 3_600)),
        b'M' => Some(Duration::from_secs(count * 60)),
        b'S' => Some(Duration::from_secs(count)),
        b'm' => Some(Duration::from_millis(count)),
        b'u' => Some(Duration::from_micros(count)),
        b'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// Reads the time left from `x-envoy-expected-rq-timeout-ms`.
///
/// If there are several lines, the shortest time counts. Zero is malformed, because Envoy never
/// writes it. Elsewhere, zero means no limit to Envoy, which is the opposite of no time.
pub fn expected_timeout(headers: &HeaderMap) -> Parsed<Duration> {
    let parse = |text: &[u8]| match number(text, U64_DIGITS)? {
        0 => None,
        millis => Some(Duration::from_millis(millis)),
    };
    read(headers, EXPECTED_TIMEOUT, parse, Duration::min)
}

/// Reads the time left from `connect-timeout-ms`.
///
/// If there are several lines, the shortest time counts.
///
/// Zero is read as no time left, as in [`grpc_timeout`].
pub fn connect_timeout(headers: &HeaderMap) -> Parsed<Duration> {
    let parse = |text: &[u8]| number(text, CONNECT_TIMEOUT_DIGITS).map(Duration::from_millis);
    read(headers, CONNECT_TIMEOUT, parse, Duration::min)
}

/// Returns the value of a `grpc-timeout` header, or `None` if no time is left.
///
/// It has the finest unit that fits in eight digits, rounded down. A time that needs more than
/// eight digits of hours becomes `99999999H`.
pub fn grpc_timeout_value(left: Duration) -> Option<HeaderValue> {
    let seconds = left.as_secs();
    let units = [
        (left.as_nanos(), b'n'),
        (left.as_micros(), b'u'),
        (left.as_millis(), b'm'),
        (u128::from(seconds), b'S'),
        (u128::from(seconds / 60), b'M'),
        (u128::from(seconds / 3_600), b'H'),
    ];
    if left.is_zero() {
        return None;
    }
    let fitting = units.into_iter().find_map(|(count, unit)| {
        let count = u64::try_from(count).ok().filter(|count| *count <= GRPC_TIMEOUT_MAX)?;
        Some((count, unit))
    });
    let (count, unit) = fitting.unwrap_or((GRPC_TIMEOUT_MAX, b'H'));
    written(count, Some(unit))
}

/// Returns the value of an `x-envoy-expected-rq-timeout-ms` header, rounded down.
///
/// It is `None` if less than a millisecond is left. A time that needs more than ten digits, about
/// four months, becomes `9999999999`.
pub(in crate::http) fn millis_value(left: Duration) -> Option<HeaderValue> {
    let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).min(MILLIS_MAX);
    if millis == 0 { None } else { written(millis, None) }
}
