#![no_main]

use std::time::Duration;

use buttress::http::wire::{
    CONNECT_TIMEOUT, EXPECTED_TIMEOUT, connect_timeout, expected_timeout, millis_value,
};
use buttress_fuzz::{check, count, first_number, lines};
use http::HeaderMap;
use libfuzzer_sys::fuzz_target;

fn round_trip(left: Duration) {
    let Some(value) = millis_value(left) else {
        return assert!(left < Duration::from_millis(1));
    };
    let headers =
        HeaderMap::from_iter([(EXPECTED_TIMEOUT, value.clone()), (CONNECT_TIMEOUT, value)]);
    let read = expected_timeout(&headers);
    assert_eq!(read, connect_timeout(&headers));
    assert_eq!(read.malformed, 0);
    assert!(read.value.is_some_and(|read| !read.is_zero() && read <= left), "{left:?}: {read:?}");
}

fuzz_target!(|input: &[u8]| {
    let headers = lines(EXPECTED_TIMEOUT, input);
    let read = expected_timeout(&headers);
    let bounds = Duration::from_millis(1)..=Duration::from_millis(u64::MAX);
    check(read, count(&headers, EXPECTED_TIMEOUT), bounds);
    if let Some(left) = read.value {
        round_trip(left);
    }

    let headers = lines(CONNECT_TIMEOUT, input);
    let bounds = Duration::ZERO..=Duration::from_millis(9_999_999_999);
    check(connect_timeout(&headers), count(&headers, CONNECT_TIMEOUT), bounds);

    round_trip(Duration::from_nanos(first_number(input)));
    round_trip(Duration::from_secs(first_number(input)));
});
