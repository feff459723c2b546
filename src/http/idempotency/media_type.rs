//! The content type of a request, and the boundary that a client makes anew for each attempt.

use std::cmp::Ordering;

/// The name and the value of a parameter.
type Parameter<'a> = (&'a [u8], &'a [u8]);

/// The maximum number of parameters. They are sorted in place.
const MOST_PARAMETERS: usize = 8;

/// The maximum length of a boundary in bytes (RFC 2046).
const MOST_BOUNDARY_BYTES: usize = 70;

/// The maximum number of delimiters. A part of a few bytes costs more to hash than its bytes.
const MOST_DELIMITERS: usize = 1_000;

/// A content type that every server reads in the same way.
pub(super) struct MediaType<'a> {
    /// The type and the subtype.
    pub(super) essence: &'a [u8],
    parameters: [Parameter<'a>; MOST_PARAMETERS],
    count: usize,
    /// The boundary. Every multipart type has one, and no other type has one.
    pub(super) boundary: Option<&'a [u8]>,
}

impl<'a> MediaType<'a> {
    /// Returns `None` for a malformed content type, and for a multipart type without one valid
    /// boundary.
    pub(super) fn parse(value: &'a [u8]) -> Option<Self> {
        let (essence, mut rest) = split_at(value, b";");
        let essence = essence.trim_ascii();
        let is_multipart = essence
            .split_at_checked(b"multipart/".len())
            .is_some_and(|(start, _)| start.eq_ignore_ascii_case(b"multipart/"));
        let (parameters, count) = ([<Parameter<'_>>::default(); MOST_PARAMETERS], 0);
        let mut parsed = Self { essence, parameters, count, boundary: None };
        while let [b';', after @ ..] = rest {
            rest = after.trim_ascii_start();
            if matches!(rest, [] | [b';', ..]) {
                continue;
            }
            let (name, value);
            ((name, value), rest) = split_parameter(rest)?;
            if is_multipart && is_boundary(name) {
                let is_valid = (1..=MOST_BOUNDARY_BYTES).contains(&value.len())
                    && name.len() == b"boundary".len();
                if !is_valid || parsed.boundary.replace(value).is_some() {
                    return None;
                }
            } else {
                *parsed.parameters.get_mut(parsed.count)? = (name, value);
                parsed.count += 1;
            }
        }
        // A stable sort, because the order of parameters with the same name may have a meaning.
        parsed.parameters[..parsed.count].sort_by(|(one, _), (other, _)| compare(one, other));
        (parsed.boundary.is_some() == is_multipart).then_some(parsed)
    }

    /// Returns the parameters besides the boundary, sorted by their names.
    pub(super) fn parameters(&self) -> &[Parameter<'a>] {
        &self.parameters[..self.count]
    }
}

/// Returns whether a server may take the boundary from this parameter.
///
/// Some read `boundary*` and `boundary*0` too (RFC 2231).
fn is_boundary(name: &[u8]) -> bool {
    split_at(name, b"*").0.eq_ignore_ascii_case(b"boundary")
}

/// Compares names, ignoring their case.
fn compare(one: &[u8], other: &[u8]) -> Ordering {
    let [one, other] = [one, other].map(|name| name.iter().map(u8::to_ascii_lowercase));
    one.cmp(other)
}

/// Splits a text before the first of these bytes, or at its end.
fn split_at<'a>(text: &'a [u8], bytes: &[u8]) -> (&'a [u8], &'a [u8]) {
    text.split_at(text.iter().position(|byte| bytes.contains(byte)).unwrap_or(text.len()))
}

/// Splits off the parameter at the start of a text, or returns `None` if it is malformed.
///
/// An escape within quotes counts as malformed, because servers read it in different ways.
fn split_parameter(text: &[u8]) -> Option<(Parameter<'_>, &[u8])> {
    let (name, rest) = split_at(text, b"= \t;\"");
    let rest = rest.strip_prefix(b"=")?;
    let (value, rest) = if let Some(quoted) = rest.strip_prefix(b"\"") {
        let (value, rest) = split_at(quoted, b"\"\\");
        (value, rest.strip_prefix(b"\"")?)
    } else {
        let (value, rest) = split_at(rest, b" \t;,\"\\");
        (!value.is_empty()).then_some((value, rest))?
    };
    let rest = rest.trim_ascii_start();
    matches!(rest, [] | [b';', ..]).then_some(((name, value), rest))
}

/// A multipart body of which only the boundary may differ from that of another attempt.
pub(super) struct Multipart<'a> {
    body: &'a [u8],
    boundary: &'a [u8],
    /// The number of pieces between the delimiters, at the start and at the end.
    pub(super) pieces: usize,
}

impl<'a> Multipart<'a> {
    /// Returns `None` if `--boundary` is missing, stands too often, or stands where it is no
    /// delimiter (RFC 2046).
    ///
    /// A reader that takes something else for a delimiter therefore never sees another content.
    pub(super) fn parse(body: &'a [u8], boundary: &'a [u8]) -> Option<Self> {
        let mut delimiters = 0;
        for at in find(body, boundary) {
            delimiters += 1;
            if delimiters > MOST_DELIMITERS || !is_delimiter(body, at, boundary.len()) {
                return None;
            }
        }
        (delimiters > 0).then_some(Self { body, boundary, pieces: delimiters + 1 })
    }

    /// Passes the pieces to `piece`. Two bodies with the same pieces differ only in their
    /// boundaries.
    pub(super) fn each_piece(&self, mut piece: impl FnMut(&'a [u8])) {
        let mut start = 0;
        for at in find(self.body, self.boundary) {
            piece(&self.body[start..at]);
            start = at + DASHES.len() + self.boundary.len();
        }
        piece(&self.body[start..]);
    }
}

const DASHES: &[u8] = b"--";

/// Returns every position of `--boundary`.
fn find(body: &[u8], boundary: &[u8]) -> impl Iterator<Item = usize> {
    let windows = body.windows(DASHES.len() + boundary.len()).enumerate();
    // The last byte differs almost always, and costs less than a comparison of slices.
    let found = windows.filter(|(_, text)| {
        text.last() == boundary.last() && text.starts_with(DASHES) && text.ends_with(boundary)
    });
    found.map(|(at, _)| at)
}

/// Returns whether the `--boundary` at this position is a delimiter, with a line of its own.
fn is_delimiter(body: &[u8], at: usize, boundary_length: usize) -> bool {
    let (before, line) = body.split_at(at);
    let rest = &line[DASHES.len() + boundary_length..];
    let mut rest = rest.strip_prefix(DASHES).unwrap_or(rest);
    while let [b' ' | b'\t', after @ ..] = rest {
        rest = after;
    }
    (before.is_empty() || before.ends_with(b"\r\n"))
        && (rest.is_empty() || rest.starts_with(b"\r\n"))
}
