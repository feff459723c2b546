#![no_main]

use buttress::http::wire::{ATTEMPT_COUNT, PREVIOUS_ATTEMPTS, attempt_count, previous_attempts};
use buttress_fuzz::{check, count, lines};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let headers = lines(PREVIOUS_ATTEMPTS, input);
    let previous = previous_attempts(&headers);
    check(previous, count(&headers, PREVIOUS_ATTEMPTS), 1..=u32::MAX);

    let headers = lines(ATTEMPT_COUNT, input);
    let read = attempt_count(&headers);
    assert_eq!(read, previous);

    if let Some(number) = read.value {
        let headers = HeaderMap::from_iter([(ATTEMPT_COUNT, HeaderValue::from(number))]);
        assert_eq!(attempt_count(&headers).value, Some(number));
    }
});
