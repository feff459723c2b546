//! Reads the lines of a header, and writes numbers.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The number of digits of the largest `u64`.
pub(super) const U64_DIGITS: usize = 20;

/// The number of digits of the largest `u32` and of the largest `i32`.
pub(super) const U32_DIGITS: usize = 10;

/// The parsed lines of a header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parsed<T> {
    /// The value that counts, or `None` if there is no well-formed line.
    pub value: Option<T>,
    /// The number of lines that were ignored because they are malformed.
    pub malformed: u32,
}

/// Reads every line of a header. Of the well-formed lines, `prefer` selects one.
pub(super) fn read<T>(
    headers: &HeaderMap,
    name: HeaderName,
    parse: impl Fn(&[u8]) -> Option<T>,
    prefer: impl Fn(T, T) -> T,
) -> Parsed<T> {
    let mut read = Parsed { value: None, malformed: 0 };
    for line in headers.get_all(name) {
        match (read.value.take(), parse(trim(line.as_bytes()))) {
            (Some(value), Some(another)) => read.value = Some(prefer(value, another)),
            (None, Some(first)) => read.value = Some(first),
            (value, None) => {
                read.value = value;
                read.malformed = read.malformed.saturating_add(1);
            }
        }
    }
    read
}

/// Removes the spaces and tabs around a value. `trim_ascii` removes more than HTTP allows.
pub(super) fn trim(mut line: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = line {
        line = rest;
    }
    line
}

/// Parses a number that consists of 1 to `most` digits and nothing else.
pub(super) fn number(text: &[u8], most: usize) -> Option<u64> {
    if text.is_empty() || text.len() > most {
        return None;
    }
    text.iter().try_fold(0u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Writes a number, and its unit if it has one.
pub(super) fn written(mut number: u64, unit: Option<u8>) -> Option<HeaderValue> {
    let mut text = [0u8; U64_DIGITS + 1];
    let mut start = text.len();
    let mut put = |byte| {
        start -= 1;
        text[start] = byte;
    };
    unit.into_iter().for_each(&mut put);
    loop {
        put(b'0' + (number % 10) as u8);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    // Digits and a letter are always a valid value.
    HeaderValue::from_bytes(&text[start..]).ok()
}
