//! A fallback whose value is a response of the client, which a stack with `http()` changes.

use buttress::{Stack, fallback::FallbackLayer};
use http::{Request, Response};
use std::io;
use tower::service_fn;

fn main() {
    let client = service_fn(|_: Request<String>| async {
        Ok::<_, io::Error>(Response::new(String::new()))
    });
    let none = FallbackLayer::value(Response::new(String::new()));
    let _ = Stack::standard_http().fallback(none).service(client);
}
