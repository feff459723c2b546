//! A cache by a closure in a stack with `http()`, whose responses are not `Clone`.

use buttress::{Stack, cache::CacheLayer};
use http::{Request, Response};
use std::io;
use tower::service_fn;

fn main() {
    let client = service_fn(|_: Request<String>| async {
        Ok::<_, io::Error>(Response::new(String::new()))
    });
    let cache = CacheLayer::by_fn(|request: &Request<String>| Some(request.uri().clone()));
    let _ = Stack::standard_http().cache(cache.build().unwrap()).service(client);
}
