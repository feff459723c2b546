//! A layer without a scope. A default could show one customer the responses of another.

use buttress::idempotency::{IdempotencyLayer, store::MemoryStore};

fn main() {
    let _ = IdempotencyLayer::http(MemoryStore::new()).build();
}
