//! A cache whose key function returns a key, not an `Option` of one.

use buttress::{Stack, cache::CacheLayer};
use std::io;
use tower::service_fn;

fn main() {
    let client = service_fn(|path: String| async move { Ok::<_, io::Error>(path.len()) });
    let cache = CacheLayer::by_fn(|path: &String| path.clone()).build().unwrap();
    let _ = Stack::new().cache(cache).service(client);
}
