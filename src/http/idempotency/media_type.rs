//! The part of a content type and of a multipart body that a client does not make anew each time.

/// A content type, without the parameters that do not change the meaning of the body.
pub(super) struct MediaType<'a> {
    /// The type and the subtype.
    pub(super) essence: &'a [u8],
    pub(super) charset: Option<&'a [u8]>,
    /// The boundary of a multipart body.
    pub(super) boundary: Option<&'a [u8]>,
}

impl<'a> MediaType<'a> {
    pub(super) fn parse(value: &'a [u8]) -> Self {
        let (essence, parameters) = split_at_semicolon(value);
        let mut parsed = Self { essence: essence.trim_ascii(), charset: None, boundary: None };
        let is_multipart = parsed
            .essence
            .split_at_checked(b"multipart/".len())
            .is_some_and(|(start, _)| start.eq_ignore_ascii_case(b"multipart/"));
        for (name, value) in (Parameters { rest: parameters }) {
            if name.eq_ignore_ascii_case(b"charset") {
                parsed.charset.get_or_insert(value);
            } else if is_multipart && name.eq_ignore_ascii_case(b"boundary") && !value.is_empty() {
                parsed.boundary.get_or_insert(value);
            }
        }
        parsed
    }
}

fn split_at_semicolon(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(text.iter().position(|byte| *byte == b';').unwrap_or(text.len()))
}

/// The names and values of parameters. Quotes are removed, and escapes are left as they are.
struct Parameters<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Parameters<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        while let [b';' | b' ' | b'\t', rest @ ..] = self.rest {
            self.rest = rest;
        }
        let end = self.rest.iter().position(|byte| matches!(byte, b'=' | b';'))?;
        let (name, rest) = self.rest.split_at(end);
        let rest = rest.strip_prefix(b"=").unwrap_or(rest).trim_ascii_start();
        let (value, rest) = match rest {
            [b'"', quoted @ ..] => {
                let (value, rest) = quoted.split_at(end_of_quoted(quoted));
                (value, split_at_semicolon(rest).1)
            }
            _ => {
                let (value, rest) = split_at_semicolon(rest);
                (value.trim_ascii_end(), rest)
            }
        };
        self.rest = rest;
        Some((name.trim_ascii(), value))
    }
}

/// Returns the position of the closing quote, or of the end.
fn end_of_quoted(text: &[u8]) -> usize {
    let mut escaped = false;
    let is_end = |byte: &u8| {
        let end = !escaped && *byte == b'"';
        escaped = !escaped && *byte == b'\\';
        end
    };
    text.iter().position(is_end).unwrap_or(text.len())
}

/// Passes the pieces of a multipart body between its delimiters to `piece`.
///
/// Two bodies with the same pieces differ only in their boundaries.
pub(super) fn pieces<'a>(body: &'a [u8], boundary: &[u8], mut piece: impl FnMut(&'a [u8])) {
    let (mut start, mut line) = (0, 0);
    loop {
        if is_delimiter(&body[line..], boundary) {
            piece(&body[start..line]);
            start = line + b"--".len() + boundary.len();
        }
        match body[line..].iter().position(|byte| *byte == b'\n') {
            Some(end) => line += end + 1,
            None => break,
        }
    }
    piece(&body[start..]);
}

/// Returns whether a delimiter is at the start of this text, which is the start of a line.
fn is_delimiter(text: &[u8], boundary: &[u8]) -> bool {
    let Some(after) = text.strip_prefix(b"--").and_then(|text| text.strip_prefix(boundary)) else {
        return false;
    };
    let line = after.split(|byte| *byte == b'\n').next().unwrap_or_default();
    after.starts_with(b"--") || line.trim_ascii().is_empty()
}
