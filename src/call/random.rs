//! What is left to chance: draws for jitter, and tokens that no other process has.

use std::{
    cell::RefCell,
    hash::{BuildHasher, Hasher, RandomState},
    process,
    time::Duration,
};

use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};

thread_local! {
    static RNG: RefCell<SmallRng> = RefCell::new(seeded());
}

/// A generator that no other thread, and no other process, is in step with: the standard library takes
/// the seed of its hash maps from the system.
fn seeded() -> SmallRng {
    SmallRng::seed_from_u64(RandomState::new().build_hasher().finish())
}

/// Draws from this thread's generator.
pub(crate) fn draw<T>(draw: impl Fn(&mut SmallRng) -> T) -> T {
    // A call can be dropped, and a breaker open, while the thread that held it is torn down.
    RNG.try_with(|rng| draw(&mut rng.borrow_mut())).unwrap_or_else(|_| draw(&mut seeded()))
}

/// A duration between two others, both included, to the nanosecond: rounding to whole seconds or
/// milliseconds would bring clients into step again.
pub(crate) fn between(least: Duration, most: Duration, rng: &mut impl Rng) -> Duration {
    let span = most.saturating_sub(least);
    let part = span.as_secs_f64() * rng.random_range(0.0..=1.0);
    // The share of the longest span rounds up past what a duration can hold.
    let part = Duration::try_from_secs_f64(part).map_or(span, |part| part.min(span));
    least.saturating_add(part)
}

/// 128 bits that are not drawn twice, in this process or another.
pub(crate) fn token() -> [u8; 16] {
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
