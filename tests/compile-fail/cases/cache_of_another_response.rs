//! A cache whose function of sizes takes another response than that of the service.

use buttress::{Stack, cache::CacheLayer};
use std::io;
use tower::service_fn;

fn main() {
    let client = service_fn(|path: String| async move { Ok::<_, io::Error>(path.len()) });
    let cache = CacheLayer::by_fn(|path: &String| Some(path.clone()));
    let cache = cache.size_fn(|text: &String| text.len()).build().unwrap();
    let _ = Stack::new().cache(cache).service(client);
}
