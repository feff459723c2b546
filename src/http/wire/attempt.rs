use http::{HeaderMap, HeaderName, HeaderValue};

use super::line::{Parsed, U32_DIGITS, number, read};

/// `grpc-previous-rpc-attempts`: how many attempts there were before this one.
pub const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

/// `x-envoy-attempt-count`: which attempt this is; the first is 1.
pub const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

/// How many attempts there were before this one, by `grpc-previous-rpc-attempts`.
///
/// Of several lines the largest number counts: a hop that adds its own line instead of replacing the
/// one it was sent must not hide the retries of the hop above. Zero is malformed, since the first
/// attempt has no such header.
pub fn previous_attempts(headers: &HeaderMap) -> Parsed<u32> {
    read(headers, PREVIOUS_ATTEMPTS, parse_count, u32::max)
}

/// Which attempt this is, by `x-envoy-attempt-count`; the first is 1, which Envoy writes and this
/// crate does not.
///
/// Of several lines the largest number counts, as in [`previous_attempts`]. Zero is malformed.
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
