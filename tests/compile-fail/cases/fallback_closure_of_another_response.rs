//! A fallback whose closure returns another response than the service.

use buttress::{Stack, fallback::FallbackLayer};
use std::io;
use tower::service_fn;

fn main() {
    let client = service_fn(|path: String| async move { Ok::<String, io::Error>(path) });
    let layer = FallbackLayer::from_fn(|_: &String| (), |(), _| async { Some("none") });
    let _ = Stack::new().fallback(layer).service(client);
}
