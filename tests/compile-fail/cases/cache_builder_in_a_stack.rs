//! A builder of a cache that is not built yet.

use buttress::{Stack, cache::CacheLayer};

fn main() {
    let _ = Stack::standard_http().cache(CacheLayer::http());
}
