//! Random tokens that no other process has.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    process,
};

/// 128 bits that are not drawn twice, in this process or another.
pub(crate) fn random() -> [u8; 16] {
    let mut token = [0; 16];
    for half in token.chunks_exact_mut(8) {
        // Keyed by the operating system's randomness, once a thread, and never with the same key.
        let mut hasher = RandomState::new().build_hasher();
        // A process that was forked has the keys of its parent.
        hasher.write_u32(process::id());
        half.copy_from_slice(&hasher.finish().to_ne_bytes());
    }
    token
}
