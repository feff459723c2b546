//! Helpers that the fuzz targets share.

use std::{fmt::Debug, ops::RangeInclusive};

use buttress::http::wire::Parsed;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Returns headers with one line for each line of the input that is a valid header value.
pub fn lines(name: HeaderName, input: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in input.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(&name, value);
        }
    }
    headers
}

/// Returns the number of lines of a header.
pub fn count(headers: &HeaderMap, name: HeaderName) -> usize {
    headers.get_all(name).iter().count()
}

/// Checks that each line was parsed or counted as malformed, and that the value is in bounds.
pub fn check<T: Debug + PartialOrd>(read: Parsed<T>, lines: usize, bounds: RangeInclusive<T>) {
    let malformed = read.malformed as usize;
    assert!(malformed <= lines, "{read:?} of {lines} lines");
    assert_eq!(read.value.is_some(), malformed < lines, "{read:?} of {lines} lines");
    if let Some(value) = &read.value {
        assert!(bounds.contains(value), "{read:?}");
    }
}

/// Returns a number made of the first bytes of the input, which fuzzes round trips too.
pub fn first_number(input: &[u8]) -> u64 {
    input.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}
