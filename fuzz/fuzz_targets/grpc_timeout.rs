#![no_main]

use std::time::Duration;

use buttress::http::wire::{GRPC_TIMEOUT, grpc_timeout, grpc_timeout_value};
use buttress_fuzz::{check, count, first_number, lines};
use http::HeaderMap;
use libfuzzer_sys::fuzz_target;

fn round_trip(left: Duration) {
    let Some(value) = grpc_timeout_value(left) else { return assert!(left.is_zero()) };
    let read = grpc_timeout(&HeaderMap::from_iter([(GRPC_TIMEOUT, value)]));
    assert_eq!(read.malformed, 0);
    assert!(read.value.is_some_and(|read| !read.is_zero() && read <= left), "{left:?}: {read:?}");
}

fuzz_target!(|input: &[u8]| {
    let headers = lines(GRPC_TIMEOUT, input);
    let read = grpc_timeout(&headers);
    let most = Duration::from_secs(3_600 * 99_999_999);
    check(read, count(&headers, GRPC_TIMEOUT), Duration::ZERO..=most);
    if let Some(left) = read.value {
        round_trip(left);
    }
    round_trip(Duration::from_nanos(first_number(input)));
    round_trip(Duration::from_secs(first_number(input)));
});
