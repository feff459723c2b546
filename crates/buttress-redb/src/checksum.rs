//! The checksum of records and of entries of the meta table.
//!
//! It finds damage, such as that of a failing disk. It does not find a change by somebody who
//! computes it anew.

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut rest, mut bit) = (byte as u32, 0);
        while bit < 8 {
            rest = if rest & 1 == 1 { 0xEDB8_8320 ^ (rest >> 1) } else { rest >> 1 };
            bit += 1;
        }
        table[byte] = rest;
        byte += 1;
    }
    table
}

/// Returns the CRC-32 of all parts, as zlib and PNG compute it.
pub(crate) fn checksum(parts: &[&[u8]]) -> [u8; 4] {
    let step = |sum: u32, byte: &u8| TABLE[usize::from(sum as u8 ^ byte)] ^ (sum >> 8);
    let sum = parts.iter().copied().flatten().fold(u32::MAX, step);
    (!sum).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_checksum_of_the_standard() {
        assert_eq!(checksum(&[b"1234", b"56789"]), 0xCBF4_3926_u32.to_be_bytes());
    }
}
