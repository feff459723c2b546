//! A fallback for HTTP around a service that is not HTTP.

use buttress::{Stack, fallback::FallbackLayer};
use http::Response;
use std::io;
use tower::service_fn;

fn main() {
    let client = service_fn(|path: String| async move { Ok::<_, io::Error>(path.len()) });
    let none = FallbackLayer::http(Response::new("none"));
    let _ = Stack::new().fallback(none).service(client);
}
