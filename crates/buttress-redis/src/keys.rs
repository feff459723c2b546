//! The names of the keys in Redis.

use buttress::idempotency::StorageKey;

/// The names of keys under one prefix, in 256 shards by the first byte of the storage key.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: Box<str>,
}

impl Keys {
    pub(crate) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into() }
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns the keys that every script gets.
    ///
    /// These are the fence counter, the leases and the unknown operations.
    pub(crate) fn shared(&self, shard: u8) -> Vec<String> {
        let prefix = &self.prefix;
        ["fence", "leases", "unknown"].map(|name| format!("{prefix}{{{shard:02x}}}:{name}")).into()
    }

    /// Returns the prefix of the names of a shard's records.
    pub(crate) fn base(&self, shard: u8) -> String {
        format!("{}{{{shard:02x}}}:r:", self.prefix)
    }

    pub(crate) fn record(&self, key: &StorageKey) -> String {
        format!("{}{key}", self.base(shard_of(key)))
    }
}

pub(crate) fn shard_of(key: &StorageKey) -> u8 {
    key.as_bytes()[0]
}

/// Parses a key from 64 hexadecimal digits.
pub(crate) fn key_of(digits: &[u8]) -> Option<StorageKey> {
    let digits: &[u8; 64] = digits.try_into().ok()?;
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        for &digit in pair {
            let value = char::from(digit).to_digit(16)?;
            *byte = (*byte << 4) | u8::try_from(value).ok()?;
        }
    }
    Some(StorageKey::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computes a cluster's slot of a key: CRC-16/XMODEM over the text in the first braces.
    fn slot(key: &str) -> u16 {
        let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
        let tag = tag.map(|(tag, _)| tag).filter(|tag| !tag.is_empty()).unwrap_or(key);
        let crc = tag.bytes().fold(0_u16, |crc, byte| {
            (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| match crc & 0x8000 {
                0 => crc << 1,
                _ => (crc << 1) ^ 0x1021,
            })
        });
        crc % 16_384
    }

    #[test]
    fn all_that_belongs_to_a_record_is_in_one_slot() {
        assert_eq!((slot("123456789"), slot("a{foo}b")), (0x31c3, slot("foo")));
        let keys = Keys::new("my:");
        for first in 0..=255 {
            let key = StorageKey::from_bytes([first; 32]);
            let record = keys.record(&key);
            assert!(record.starts_with("my:{"), "{record}");
            for shared in keys.shared(shard_of(&key)) {
                assert_eq!(slot(&record), slot(&shared), "{record} {shared}");
            }
        }
    }

    #[test]
    fn shards_are_spread_over_the_slots() {
        let keys = Keys::new("buttress:");
        let slots: std::collections::HashSet<_> =
            (0..=255).map(|shard| slot(&keys.base(shard))).collect();
        assert_eq!(slots.len(), 256);
    }

    #[test]
    fn a_key_can_be_read_back_from_its_digits() {
        let key = StorageKey::from_bytes(std::array::from_fn(|i| i as u8 * 7 + 1));
        assert_eq!(key_of(key.to_string().as_bytes()), Some(key));
        assert_eq!(key_of(b"12"), None);
        assert_eq!(key_of(&[b'g'; 64]), None);
        assert_eq!(key_of(&[0xff; 64]), None);
    }
}
