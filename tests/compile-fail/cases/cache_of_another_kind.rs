//! A fallback in the slot of the cache.

use buttress::{Stack, fallback::FallbackLayer};

fn main() {
    let _ = Stack::new().cache(FallbackLayer::value("none"));
}
