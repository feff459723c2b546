//! The encoding of a record.
//!
//! | bytes | content |
//! |---|---|
//! | 1 | version, 2 |
//! | 4 | the checksum of the key and of all other bytes, which version 1 does not have |
//! | 1 | state: 0 reserved, 1 started, 2 taken over, 3 completed, 4 unknown |
//! | 16 | owner |
//! | 8 | fence |
//! | 33 | fingerprint |
//! | 12 | since: seconds (8), nanoseconds (4) |
//! | 12 | until: the same |
//! | 12 | only in flight: the retention if the record becomes unknown |
//! | 8 | only taken over: the fence of the lost run |
//! | 1 | 1 if there is a payload or checkpoint, otherwise 0 |
//! | rest | the payload or checkpoint |
//!
//! Numbers are big-endian. Times count from 1970.

use std::time::Duration;

use buttress::idempotency::store::machine::{RecordState, RunStage, StoredRecord};
use buttress::idempotency::{Fingerprint, Owner, StorageKey, StoreError};

use crate::checksum::checksum;

const VERSION: u8 = 2;

/// The version without a checksum, which is still read.
const UNCHECKED: u8 = 1;

const RESERVED: u8 = 0;
const STARTED: u8 = 1;
const TAKEN_OVER: u8 = 2;
const COMPLETED: u8 = 3;
const UNKNOWN: u8 = 4;

pub(crate) fn encode(key: &StorageKey, record: &StoredRecord<Vec<u8>>) -> Vec<u8> {
    let (state, kept) = match &record.state {
        RecordState::InFlight { stage, checkpoint, .. } => {
            let stage = match stage {
                RunStage::Reserved => RESERVED,
                RunStage::Started => STARTED,
                RunStage::TakenOver { .. } => TAKEN_OVER,
            };
            (stage, checkpoint)
        }
        RecordState::Completed { payload } => (COMPLETED, payload),
        RecordState::Unknown { checkpoint } => (UNKNOWN, checkpoint),
    };
    let mut bytes = Vec::with_capacity(108 + kept.as_ref().map_or(0, Vec::len));
    bytes.extend([VERSION, 0, 0, 0, 0, state]);
    bytes.extend(record.owner.as_bytes());
    bytes.extend(record.fence.to_be_bytes());
    bytes.extend(record.fingerprint.to_bytes());
    bytes.extend(encode_time(record.since));
    bytes.extend(encode_time(record.until));
    if let RecordState::InFlight { stage, unknown_for, .. } = &record.state {
        bytes.extend(encode_time(*unknown_for));
        if let RunStage::TakenOver { from } = stage {
            bytes.extend(from.to_be_bytes());
        }
    }
    bytes.push(kept.is_some().into());
    bytes.extend(kept.iter().flatten());
    let sum = checksum(&[key.as_bytes(), &bytes[5..]]);
    bytes[1..5].copy_from_slice(&sum);
    bytes
}

pub(crate) fn decode(key: &StorageKey, bytes: &[u8]) -> Result<StoredRecord<Vec<u8>>, StoreError> {
    let mut bytes = Bytes(bytes);
    match bytes.take()? {
        [VERSION] => {
            if bytes.take()? != checksum(&[key.as_bytes(), bytes.0]) {
                return Err(StoreError::Garbled("the checksum of a record"));
            }
        }
        [UNCHECKED] => {}
        [0] => return Err(StoreError::Garbled("the version of a record")),
        [version] => return Err(StoreError::Newer(version.into())),
    }
    let [state] = bytes.take()?;
    let owner = Owner::from_bytes(bytes.take()?);
    let fence = u64::from_be_bytes(bytes.take()?);
    let fingerprint = Fingerprint::from_bytes(bytes.take()?);
    let since = decode_time(bytes.take()?)?;
    let until = decode_time(bytes.take()?)?;
    let state = match state {
        RESERVED | STARTED | TAKEN_OVER => RecordState::InFlight {
            unknown_for: decode_time(bytes.take()?)?,
            stage: match state {
                RESERVED => RunStage::Reserved,
                STARTED => RunStage::Started,
                _ => RunStage::TakenOver { from: u64::from_be_bytes(bytes.take()?) },
            },
            checkpoint: bytes.kept()?,
        },
        COMPLETED => RecordState::Completed { payload: bytes.kept()? },
        UNKNOWN => RecordState::Unknown { checkpoint: bytes.kept()? },
        _ => return Err(StoreError::Garbled("the state of a record")),
    };
    Ok(StoredRecord { owner, fence, fingerprint, since, until, state })
}

pub(crate) fn encode_time(time: Duration) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&time.as_secs().to_be_bytes());
    bytes[8..].copy_from_slice(&time.subsec_nanos().to_be_bytes());
    bytes
}

pub(crate) fn decode_time(bytes: [u8; 12]) -> Result<Duration, StoreError> {
    let mut bytes = Bytes(&bytes);
    let (seconds, nanos) = (u64::from_be_bytes(bytes.take()?), u32::from_be_bytes(bytes.take()?));
    match nanos {
        0..1_000_000_000 => Ok(Duration::new(seconds, nanos)),
        _ => Err(StoreError::Garbled("the time of a record")),
    }
}

/// The bytes that are not read yet.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let (taken, rest) =
            self.0.split_first_chunk().ok_or(StoreError::Garbled("a truncated record"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn kept(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        match self.take()? {
            [0] if self.0.is_empty() => Ok(None),
            [1] => Ok(Some(self.0.to_vec())),
            _ => Err(StoreError::Garbled("the payload of a record")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> StorageKey {
        StorageKey::from_bytes([7; 32])
    }

    fn time() -> impl Strategy<Value = Duration> {
        prop_oneof![
            (any::<u64>(), 0..1_000_000_000_u32).prop_map(|(s, n)| Duration::new(s, n)),
            Just(Duration::MAX),
        ]
    }

    fn kept() -> impl Strategy<Value = Option<Vec<u8>>> {
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40))
    }

    fn stage() -> impl Strategy<Value = RunStage> {
        prop_oneof![
            Just(RunStage::Reserved),
            Just(RunStage::Started),
            any::<u64>().prop_map(|from| RunStage::TakenOver { from }),
        ]
    }

    fn state() -> impl Strategy<Value = RecordState<Vec<u8>>> {
        prop_oneof![
            (stage(), time(), kept()).prop_map(|(stage, unknown_for, checkpoint)| {
                RecordState::InFlight { stage, unknown_for, checkpoint }
            }),
            kept().prop_map(|payload| RecordState::Completed { payload }),
            kept().prop_map(|checkpoint| RecordState::Unknown { checkpoint }),
        ]
    }

    prop_compose! {
        fn record()(
            owner in any::<[u8; 16]>(),
            fence in any::<u64>(),
            fingerprint in proptest::collection::vec(any::<u8>(), 33),
            since in time(),
            until in time(),
            state in state(),
        ) -> StoredRecord<Vec<u8>> {
            let mut digest = [0; 33];
            digest.copy_from_slice(&fingerprint);
            let fingerprint = Fingerprint::from_bytes(digest);
            let owner = Owner::from_bytes(owner);
            StoredRecord { owner, fence, fingerprint, since, until, state }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(record in record()) {
            prop_assert_eq!(decode(&key(), &encode(&key(), &record)).unwrap(), record);
        }

        #[test]
        fn a_record_of_the_first_version_is_read(record in record()) {
            let bytes = [&[UNCHECKED], &encode(&key(), &record)[5..]].concat();
            prop_assert_eq!(decode(&key(), &bytes).unwrap(), record);
        }

        #[test]
        fn an_altered_record_is_noticed(record in record(), at in any::<u64>(), bit in 0..8_u8) {
            let mut bytes = encode(&key(), &record);
            let at = (at % bytes.len() as u64) as usize;
            bytes[at] ^= 1 << bit;
            prop_assert!(decode(&key(), &bytes).is_err());
        }

        #[test]
        fn a_record_under_another_key_is_noticed(record in record(), other in any::<[u8; 32]>()) {
            let other = StorageKey::from_bytes(other);
            prop_assume!(other != key());
            prop_assert!(decode(&other, &encode(&key(), &record)).is_err());
        }

        #[test]
        fn no_bytes_are_read_as_what_would_be_written_differently(
            record in record(),
            damage in proptest::collection::vec((any::<u16>(), any::<u8>(), 0..3_u8), 0..4),
        ) {
            let mut bytes = encode(&key(), &record);
            for (at, byte, how) in damage {
                let at = usize::from(at) % (bytes.len() + 1);
                match how {
                    0 => bytes.truncate(at),
                    1 => bytes.insert(at, byte),
                    _ => bytes[at..].iter_mut().take(1).for_each(|damaged| *damaged = byte),
                }
            }
            if let Ok(record) = decode(&key(), &bytes) {
                let read = match bytes[0] {
                    UNCHECKED => &bytes[1..],
                    _ => &bytes[5..],
                };
                prop_assert_eq!(&encode(&key(), &record)[5..], read);
            }
        }

        #[test]
        fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..160)) {
            let _ = decode(&key(), &bytes);
        }

        #[test]
        fn a_record_cut_short_before_what_it_keeps_is_refused(
            record in record(),
            cut in any::<u64>(),
        ) {
            let bytes = encode(&key(), &record);
            let kept = match &record.state {
                RecordState::InFlight { checkpoint: kept, .. }
                | RecordState::Completed { payload: kept }
                | RecordState::Unknown { checkpoint: kept } => kept.as_ref().map_or(0, Vec::len),
            };
            let cut = (cut % (bytes.len() - kept) as u64) as usize;

            prop_assert!(matches!(decode(&key(), &bytes[..cut]), Err(StoreError::Garbled(_))));
        }

        #[test]
        fn a_newer_version_is_named_whatever_follows(
            version in VERSION + 1..=u8::MAX,
            rest in proptest::collection::vec(any::<u8>(), 0..160),
        ) {
            let bytes = [&[version][..], &rest].concat();

            let decoded = decode(&key(), &bytes);
            let newer = u16::from(version);
            prop_assert!(matches!(decoded, Err(StoreError::Newer(found)) if found == newer));
        }
    }
}
