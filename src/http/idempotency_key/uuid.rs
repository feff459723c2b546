use std::fmt::{self, Write};

use crate::call::random;

/// The number of characters of a UUID.
const LEN: usize = 36;

/// A random UUID (version 4) as text, created without an allocation.
pub(super) struct Uuid {
    text: [u8; LEN],
    len: usize,
}

impl Uuid {
    pub(super) fn random() -> Self {
        let mut number = u128::from_be_bytes(random::token());
        // Sets the version and the variant, because some servers check the format.
        number = number & !(0xf << 76) | 4 << 76;
        number = number & !(0x3 << 62) | 2 << 62;
        let mut uuid = Self { text: [0; LEN], len: 0 };
        for (group, (shift, digits)) in
            [(96, 8), (80, 4), (64, 4), (48, 4), (0, 12)].into_iter().enumerate()
        {
            let part = number >> shift & ((1 << (4 * digits)) - 1);
            let dash = if group == 0 { "" } else { "-" };
            // The buffer has room for all five groups.
            let _ = write!(uuid, "{dash}{part:0digits$x}");
        }
        uuid
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..self.len]).unwrap_or_default()
    }
}

impl Write for Uuid {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len + text.len();
        let room = self.text.get_mut(self.len..end).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_random_uuid() {
        let (mut ones, mut zeros) = (0, u128::MAX);
        for _ in 0..1_000 {
            let uuid = Uuid::random();
            let text = uuid.as_str();
            let lengths: Vec<_> = text.split('-').map(str::len).collect();
            assert_eq!(lengths, [8, 4, 4, 4, 12], "{text}");
            assert_eq!(&text[14..15], "4", "{text}");
            assert!("89ab".contains(&text[19..20]), "{text}");
            let number = u128::from_str_radix(&text.replace('-', ""), 16).unwrap();
            ones |= number;
            zeros &= number;
        }
        // Each bit except the six of the version and the variant is sometimes 0 and sometimes 1.
        assert_eq!((ones & !zeros).count_ones(), 122);
    }
}
