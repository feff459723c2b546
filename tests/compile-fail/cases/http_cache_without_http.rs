//! A cache for HTTP in a stack without `http()`.

use buttress::{Stack, cache::CacheLayer, http::ReplaySafe};
use http::{Request, Response};
use std::io;
use tower::service_fn;

fn main() {
    let client = service_fn(|_: Request<String>| async {
        Ok::<_, io::Error>(Response::new(String::new()))
    });
    let cache = CacheLayer::http().build().unwrap();
    let _ = Stack::standard(ReplaySafe::new()).cache(cache).service(client);
}
