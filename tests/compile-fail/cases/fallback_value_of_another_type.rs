//! A fallback whose value is not a response of the service.

use buttress::{Stack, fallback::FallbackLayer};
use std::io;
use tower::service_fn;

fn main() {
    let client = service_fn(|path: String| async move { Ok::<String, io::Error>(path) });
    let _ = Stack::new().fallback(FallbackLayer::value("none")).service(client);
}
