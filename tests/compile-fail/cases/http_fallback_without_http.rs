//! A fallback for HTTP in a stack without `http()`.

use buttress::{Stack, fallback::FallbackLayer, http::ReplaySafe};
use http::{Request, Response};
use std::io;
use tower::service_fn;

fn main() {
    let client = service_fn(|_: Request<String>| async {
        Ok::<_, io::Error>(Response::new(String::new()))
    });
    let none = FallbackLayer::http(Response::new("none"));
    let _ = Stack::standard(ReplaySafe::new()).fallback(none).service(client);
}
