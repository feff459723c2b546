//! A fallback whose closure returns a response, not an `Option` of one.

use buttress::{Stack, fallback::FallbackLayer};
use std::io;
use tower::service_fn;

fn main() {
    let client = service_fn(|path: String| async move { Ok::<_, io::Error>(path.len()) });
    let layer = FallbackLayer::from_fn(|_: &String| (), |(), _| async { 0_usize });
    let _ = Stack::new().fallback(layer).service(client);
}
