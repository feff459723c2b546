//! A cache in front of a service whose responses are not `Clone`.

use buttress::{Stack, cache::CacheLayer};
use std::io;
use tower::service_fn;

struct Page;

fn main() {
    let client = service_fn(|_: String| async { Ok::<_, io::Error>(Page) });
    let cache = CacheLayer::by_fn(|path: &String| Some(path.clone())).build().unwrap();
    let _ = Stack::new().cache(cache).service(client);
}
