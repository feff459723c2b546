#![no_main]

use std::time::Duration;

use buttress::http::wire::{CONNECT_TIMEOUT, EXPECTED_TIMEOUT, connect_timeout, expected_timeout};
use buttress_fuzz::{check, count, first_number, lines};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

fn round_trip(millis: u64) {
    let value = HeaderValue::from(millis);
    let headers =
        HeaderMap::from_iter([(EXPECTED_TIMEOUT, value.clone()), (CONNECT_TIMEOUT, value)]);
    let read = expected_timeout(&headers);
    assert_eq!(read, connect_timeout(&headers));
    assert_eq!((read.value, read.malformed), (Some(Duration::from_millis(millis)), 0));
}

fuzz_target!(|input: &[u8]| {
    let headers = lines(EXPECTED_TIMEOUT, input);
    let read = expected_timeout(&headers);
    let bounds = Duration::from_millis(1)..=Duration::from_millis(u64::MAX);
    check(read, count(&headers, EXPECTED_TIMEOUT), bounds);

    let headers = lines(CONNECT_TIMEOUT, input);
    let bounds = Duration::ZERO..=Duration::from_millis(9_999_999_999);
    check(connect_timeout(&headers), count(&headers, CONNECT_TIMEOUT), bounds);

    // As many digits as `connect-timeout-ms` allows, but not zero, which only one of the two
    // headers accepts.
    round_trip(first_number(input) % 9_999_999_999 + 1);
});
