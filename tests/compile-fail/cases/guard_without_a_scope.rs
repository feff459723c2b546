//! Whose keys they are has no default: one customer could read what another was answered.

use buttress::idempotency::{IdempotencyLayer, store::MemoryStore};

fn main() {
    let _ = IdempotencyLayer::http(MemoryStore::new()).build();
}
