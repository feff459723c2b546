use http::{HeaderMap, HeaderName, HeaderValue};

use super::line::{Parsed, U32_DIGITS, number, read};

/// `grpc-previous-rpc-attempts`: the number of attempts before this one.
pub const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

/// `x-envoy-attempt-count`: the number of this attempt, starting with 1.
pub const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

/// Reads the number of attempts before this one, from `grpc-previous-rpc-attempts`.
///
/// If there are several lines, the largest number counts. A hop that adds its own line, instead of
/// replacing the line that it received, must not hide the retries of its caller. Zero is malformed,
/// because the first attempt has no such header.
pub fn previous_attempts(headers: &HeaderMap) -> Parsed<u32> {
    read(headers, PREVIOUS_ATTEMPTS, parse_count, u32::max)
}

/// Reads the number of this attempt, starting with 1, from `x-envoy-attempt-count`.
///
/// Envoy writes the header for the first attempt too, and this crate does not. If there are several
/// lines, the largest number counts, as in [`previous_attempts`]. Zero is malformed.
pub fn attempt_count(headers: &HeaderMap) -> Parsed<u32> {
    read(headers, ATTEMPT_COUNT, parse_count, u32::max)
}

fn parse_count(text: &[u8]) -> Option<u32> {
    u32::try_from(number(text, U32_DIGITS)?).ok().filter(|count| *count > 0)
}

/// Returns the value of a header that counts attempts.
pub(in crate::http) fn count_value(count: u32) -> HeaderValue {
    HeaderValue::from(count)
}
