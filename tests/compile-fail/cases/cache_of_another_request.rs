//! A cache whose key function takes another request than the service.

use buttress::{Stack, cache::CacheLayer};
use std::io;
use tower::service_fn;

fn main() {
    let client = service_fn(|path: String| async move { Ok::<_, io::Error>(path.len()) });
    let cache = CacheLayer::by_fn(|id: &u64| Some(*id)).build().unwrap();
    let _ = Stack::new().cache(cache).service(client);
}
