//! Measures the cost of keys in a keyed breaker: the bytes of a key, and a call among many keys.

use std::time::Duration;

use buttress::circuit_breaker::CircuitBreakerLayer;
use tower::Layer;

use crate::alloc;
use crate::backend::{Request, Subject};
use crate::measure::Expect::Served;
use crate::measure::{Harness, interleave};
use crate::ours::Inner;

pub fn print(harness: &Harness) {
    let plain = || CircuitBreakerLayer::new().layer(Inner::new());
    // Powers of two. See `keyed`.
    for keys in [1_u64 << 10, 1 << 20] {
        let before = alloc::live_bytes();
        let mut service = keyed(keys);
        harness.warm(&mut service, keys);
        let bytes = (alloc::live_bytes() - before) as f64 / keys as f64;
        let measured =
            interleave(&mut [harness.looped(Served, || service), harness.looped(Served, plain)]);
        let (nanos, plain, allocations) =
            (measured[0].nanos, measured[1].nanos, measured[0].allocations);
        println!(
            "keyed {{\"keys\":{keys},\"bytes_per_key\":{bytes:.1},\"ns\":{nanos:.1},\
             \"allocs\":{allocations:.3},\"unkeyed_ns\":{plain:.1}}}"
        );
    }
}

fn keyed(keys: u64) -> impl Subject {
    // An odd factor modulo a power of two visits every key once in each round of `keys` calls, in
    // an order that defeats the caches.
    let key = move |request: &Request| request.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) & (keys - 1);
    CircuitBreakerLayer::builder()
        .keyed_fn(key)
        .max_keys(usize::try_from(2 * keys).expect("a small number"))
        .idle(Duration::from_secs(3_600))
        .build()
        .expect("valid settings")
        .layer(Inner::new())
}
