//! The encoding of a recorded response.
//!
//! Version 1, all numbers big-endian: the version (1 byte), the status (2), the header lines, the
//! length of the body (8), the body, the trailer lines. Lines are encoded as their count (4), and
//! for each line the length of the name (2), the name, the length of the value (4) and the value.
//! No bytes may follow.

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::idempotency::StoreError;

const VERSION: u8 = 1;

/// The recorded part of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Envelope {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// The trailers, empty if there are none.
    pub(super) trailers: HeaderMap,
}

/// Encodes a response. Returns `None` if it needs more than `most` bytes.
pub(super) fn encode(
    status: StatusCode,
    headers: &[(&HeaderName, &HeaderValue)],
    body: &[u8],
    trailers: &[(&HeaderName, &HeaderValue)],
    most: usize,
) -> Option<Vec<u8>> {
    let size = [lines_size(headers)?, lines_size(trailers)?, body.len()]
        .into_iter()
        .try_fold(1 + 2 + 8, usize::checked_add)
        .filter(|size| *size <= most)?;
    let mut bytes = Vec::with_capacity(size);
    bytes.push(VERSION);
    bytes.extend_from_slice(&status.as_u16().to_be_bytes());
    put_lines(&mut bytes, headers)?;
    bytes.extend_from_slice(&(body.len() as u64).to_be_bytes());
    bytes.extend_from_slice(body);
    put_lines(&mut bytes, trailers)?;
    Some(bytes)
}

fn lines_size(lines: &[(&HeaderName, &HeaderValue)]) -> Option<usize> {
    let sizes = lines.iter().map(|(name, value)| name.as_str().len().checked_add(value.len()));
    sizes.into_iter().try_fold(4usize, |all, size| all.checked_add(size?.checked_add(2 + 4)?))
}

fn put_lines(bytes: &mut Vec<u8>, lines: &[(&HeaderName, &HeaderValue)]) -> Option<()> {
    bytes.extend_from_slice(&u32::try_from(lines.len()).ok()?.to_be_bytes());
    for (name, value) in lines {
        bytes.extend_from_slice(&u16::try_from(name.as_str().len()).ok()?.to_be_bytes());
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(&u32::try_from(value.len()).ok()?.to_be_bytes());
        bytes.extend_from_slice(value.as_bytes());
    }
    Some(())
}

/// Decodes a response. Its body and values share the memory of `bytes`.
pub(super) fn decode(bytes: Vec<u8>) -> Result<Envelope, StoreError> {
    let mut rest = Bytes::from(bytes);
    match number::<1>(&mut rest).map(u8::from_be_bytes) {
        Some(VERSION) => {}
        Some(newer) if newer > VERSION => return Err(StoreError::Newer(newer.into())),
        _ => return Err(garbled("a recorded response of an unknown version")),
    }
    let envelope = decode_current(&mut rest);
    envelope.filter(|_| rest.is_empty()).ok_or_else(|| garbled("a truncated recorded response"))
}

fn garbled(why: &'static str) -> StoreError {
    StoreError::Garbled(why)
}

fn decode_current(rest: &mut Bytes) -> Option<Envelope> {
    let status = StatusCode::from_u16(u16::from_be_bytes(number(rest)?)).ok()?;
    let headers = take_lines(rest)?;
    let length = u64::from_be_bytes(number(rest)?);
    let body = take(rest, usize::try_from(length).ok()?)?;
    let trailers = take_lines(rest)?;
    Some(Envelope { status, headers, body, trailers })
}

fn take_lines(rest: &mut Bytes) -> Option<HeaderMap> {
    let count = u32::from_be_bytes(number(rest)?);
    // Allocates nothing for the claimed count, because each line must be present first.
    let mut lines = HeaderMap::new();
    for _ in 0..count {
        let length = u16::from_be_bytes(number(rest)?);
        let name = HeaderName::from_bytes(&take(rest, length.into())?).ok()?;
        let length = u32::from_be_bytes(number(rest)?);
        let value = take(rest, usize::try_from(length).ok()?)?;
        let value = HeaderValue::from_maybe_shared(value).ok()?;
        lines.try_append(name, value).ok()?;
    }
    Some(lines)
}

fn take(rest: &mut Bytes, length: usize) -> Option<Bytes> {
    (length <= rest.len()).then(|| rest.split_to(length))
}

fn number<const N: usize>(rest: &mut Bytes) -> Option<[u8; N]> {
    let number = *rest.first_chunk()?;
    rest.advance(N);
    Some(number)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    type Lines = Vec<(String, Vec<u8>)>;

    fn lines() -> impl Strategy<Value = Lines> {
        let value = vec(prop_oneof![32u8..127, 128u8.., Just(b'\t')], 0..20);
        vec(("[a-z][a-z0-9-]{0,20}", value), 0..6)
    }

    fn map(lines: &Lines) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        map
    }

    fn encoded(envelope: &Envelope, most: usize) -> Option<Vec<u8>> {
        let headers: Vec<_> = envelope.headers.iter().collect();
        let trailers: Vec<_> = envelope.trailers.iter().collect();
        encode(envelope.status, &headers, &envelope.body, &trailers, most)
    }

    fn envelopes() -> impl Strategy<Value = Envelope> {
        (100u16..1_000, lines(), vec(any::<u8>(), 0..200), lines()).prop_map(
            |(status, headers, body, trailers)| Envelope {
                status: StatusCode::from_u16(status).unwrap(),
                headers: map(&headers),
                body: body.into(),
                trailers: map(&trailers),
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_encoded_is_decoded_as_it_was(envelope in envelopes()) {
            let bytes = encoded(&envelope, usize::MAX).unwrap();
            prop_assert_eq!(bytes.len(), bytes.capacity());
            prop_assert!(encoded(&envelope, bytes.len() - 1).is_none());
            prop_assert_eq!(decode(bytes).unwrap(), envelope);
        }

        #[test]
        fn what_is_cut_off_or_goes_on_is_garbled(envelope in envelopes(), more in any::<u8>()) {
            let mut bytes = encoded(&envelope, usize::MAX).unwrap();
            for end in 0..bytes.len() {
                let cut = decode(bytes[..end].to_vec());
                prop_assert!(matches!(cut, Err(StoreError::Garbled(_))), "{end}: {cut:?}");
            }
            bytes.push(more);
            prop_assert!(matches!(decode(bytes), Err(StoreError::Garbled(_))));
        }

        #[test]
        fn no_bytes_make_it_panic(mut bytes in vec(any::<u8>(), 0..300), version in 0u8..3) {
            if let Some(first) = bytes.first_mut() {
                *first = version;
            }
            match decode(bytes) {
                Ok(envelope) => prop_assert_eq!(version, 1, "{:?}", envelope),
                Err(StoreError::Newer(newer)) => prop_assert_eq!((newer, version), (2, 2)),
                Err(error) => prop_assert!(matches!(error, StoreError::Garbled(_))),
            }
        }

        #[test]
        fn one_changed_byte_does_not_make_it_panic(
            envelope in envelopes(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut bytes = encoded(&envelope, usize::MAX).unwrap();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = decode(bytes);
        }
    }

    #[test]
    fn lengths_that_are_not_there_take_no_room() {
        let huge = [VERSION, 0, 200, 0xff, 0xff, 0xff, 0xff, 0, 1, b'a', 0xff, 0xff, 0xff, 0xff];
        let mut body = vec![VERSION, 0, 200, 0, 0, 0, 0];
        body.extend([0xff; 8]);
        for lying in [huge.to_vec(), body] {
            let mut result = None;
            let counted = allocation_counter::measure(|| result = Some(decode(lying)));
            assert!(matches!(result, Some(Err(StoreError::Garbled(_)))));
            assert!(counted.bytes_max < 2_048, "{counted:?}");
        }
    }
}
