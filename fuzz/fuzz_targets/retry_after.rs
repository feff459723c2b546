#![no_main]

use std::time::Duration;

use buttress::http::wire::{LONGEST_RETRY_AFTER, retry_after};
use buttress_fuzz::{check, count, lines};
use http::{
    HeaderValue,
    header::{DATE, RETRY_AFTER},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let bounds = Duration::ZERO..=LONGEST_RETRY_AFTER;
    let mut headers = lines(RETRY_AFTER, input);
    let lines_read = count(&headers, RETRY_AFTER);
    let by_the_clock = retry_after(&headers);
    check(by_the_clock, lines_read, bounds.clone());

    // The same bytes as the date of the response.
    headers.extend(lines(DATE, input));
    let by_the_answer = retry_after(&headers);
    check(by_the_answer, lines_read, bounds.clone());
    assert_eq!(by_the_answer.malformed, by_the_clock.malformed);

    // The earliest date.
    headers.insert(DATE, HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"));
    let longest = retry_after(&headers);
    check(longest, lines_read, bounds);
    assert!(longest.value >= by_the_answer.value && longest.value >= by_the_clock.value);
});
