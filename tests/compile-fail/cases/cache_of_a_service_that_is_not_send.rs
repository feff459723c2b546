//! A cache in front of a service that cannot be called in a task of its own.

use buttress::{Stack, cache::CacheLayer};
use std::{io, rc::Rc};
use tower::service_fn;

fn main() {
    let client = service_fn(|path: String| async move {
        let shared = Rc::new(path);
        std::future::ready(()).await;
        Ok::<_, io::Error>(shared.len())
    });
    let cache = CacheLayer::by_fn(|path: &String| Some(path.clone())).build().unwrap();
    let _ = Stack::new().cache(cache).service(client);
}
