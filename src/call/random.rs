//! Random values: draws for jitter, and unique tokens.

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

/// Creates a generator whose numbers differ from those in every other thread and process.
///
/// Its seed comes from the operating system, through the hash maps of the standard library.
fn seeded() -> SmallRng {
    SmallRng::seed_from_u64(RandomState::new().build_hasher().finish())
}

/// Draws from the generator of this thread.
pub(crate) fn draw<T>(draw: impl Fn(&mut SmallRng) -> T) -> T {
    // A call can be dropped, and a breaker can open, while its thread is shutting down.
    RNG.try_with(|rng| draw(&mut rng.borrow_mut())).unwrap_or_else(|_| draw(&mut seeded()))
}

/// Returns a random duration between two others, both included.
///
/// It is exact to the nanosecond. If it were rounded to milliseconds, clients could act at the same
/// time again.
pub(crate) fn between(least: Duration, most: Duration, rng: &mut impl Rng) -> Duration {
    let span = most.saturating_sub(least);
    let part = span.as_secs_f64() * rng.random_range(0.0..=1.0);
    // For the longest span, the product rounds up to more than a `Duration` can hold.
    let part = Duration::try_from_secs_f64(part).map_or(span, |part| part.min(span));
    least.saturating_add(part)
}

/// Returns 128 bits that are not drawn twice, in this process or in another.
pub(crate) fn token() -> [u8; 16] {
    let mut token = [0; 16];
    for half in token.chunks_exact_mut(8) {
        // The keys come from the operating system once per thread, and differ for every state.
        let mut hasher = RandomState::new().build_hasher();
        // A forked process has the keys of its parent.
        hasher.write_u32(process::id());
        half.copy_from_slice(&hasher.finish().to_ne_bytes());
    }
    token
}
