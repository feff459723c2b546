//! Adds the parts of a request to its fingerprint.

use http::{HeaderMap, header::CONTENT_TYPE};

use super::media_type::{MediaType, Multipart};
use crate::idempotency::Digests;

/// Adds the content type and the body. An unread body is `None`.
///
/// The boundary is left out if it is nothing but a boundary. Otherwise both are added as they are.
pub(super) fn content(digests: &mut Digests, headers: &HeaderMap, body: Option<&[u8]>) {
    let mut all = headers.get_all(CONTENT_TYPE).iter();
    // More than one line is malformed.
    let line = all.next().filter(|_| all.next().is_none());
    let kind = line.and_then(|line| MediaType::parse(line.as_bytes()));
    let boundary = kind.as_ref().and_then(|kind| kind.boundary);
    let multipart = body.zip(boundary).map(|(body, boundary)| Multipart::parse(body, boundary));
    match (kind, multipart) {
        (Some(kind), None) => {
            media_type(digests, &kind);
            either(digests, body);
        }
        (Some(kind), Some(Some(multipart))) => {
            media_type(digests, &kind);
            digests.part([2]);
            digests.part((multipart.pieces as u64).to_be_bytes());
            multipart.each_piece(|piece| digests.part(piece));
        }
        _ => {
            lines(digests, headers, CONTENT_TYPE.as_str());
            either(digests, body);
        }
    }
}

/// Adds a content type without its boundary.
///
/// It begins with one byte, and [`lines`] with eight.
fn media_type(digests: &mut Digests, kind: &MediaType<'_>) {
    digests.part([kind.parameters().len() as u8]);
    digests.part(kind.essence);
    for (name, value) in kind.parameters() {
        if name.iter().any(u8::is_ascii_uppercase) {
            digests.part(name.to_ascii_lowercase());
        } else {
            digests.part(name);
        }
        digests.part(value);
    }
}

/// Adds an optional part. An empty part differs from a missing one.
pub(super) fn either(digests: &mut Digests, part: Option<&[u8]>) {
    digests.part([u8::from(part.is_some())]);
    if let Some(part) = part {
        digests.part(part);
    }
}

/// Adds the lines of a header, preceded by their number to separate them from the next part.
fn lines(digests: &mut Digests, headers: &HeaderMap, name: &str) {
    let lines = headers.get_all(name);
    digests.part((lines.iter().count() as u64).to_be_bytes());
    lines.iter().for_each(|line| digests.part(line));
}

/// Adds all lines, sorted by name, because the order of the names has no meaning.
pub(super) fn all_lines(digests: &mut Digests, fields: &HeaderMap) {
    let mut names: Vec<_> = fields.keys().collect();
    names.sort_unstable_by_key(|name| name.as_str());
    for name in names {
        digests.part(name.as_str());
        lines(digests, fields, name.as_str());
    }
}
