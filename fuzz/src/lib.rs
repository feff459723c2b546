//! What the fuzz targets share.

use std::{fmt::Debug, ops::RangeInclusive};

use buttress::http::wire::Parsed;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Headers with a line for each line of the input that a header can hold.
pub fn lines(name: HeaderName, input: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in input.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(&name, value);
        }
    }
    headers
}

/// How many lines a header has.
pub fn count(headers: &HeaderMap, name: HeaderName) -> usize {
    headers.get_all(name).iter().count()
}

/// Checks that every line was either understood or counted, and that the value is in its bounds.
pub fn check<T: Debug + PartialOrd>(read: Parsed<T>, lines: usize, bounds: RangeInclusive<T>) {
    let malformed = read.malformed as usize;
    assert!(malformed <= lines, "{read:?} of {lines} lines");
    assert_eq!(read.value.is_some(), malformed < lines, "{read:?} of {lines} lines");
    if let Some(value) = &read.value {
        assert!(bounds.contains(value), "{read:?}");
    }
}

/// A number made of the first bytes of the input, so that round trips are fuzzed too.
pub fn first_number(input: &[u8]) -> u64 {
    input.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}
