//! A fallback whose closure takes only what is kept of the request.

use buttress::{Stack, fallback::FallbackLayer};
use std::io;
use tower::service_fn;

fn main() {
    let client = service_fn(|path: String| async move { Ok::<_, io::Error>(path.len()) });
    let layer = FallbackLayer::from_fn(|_: &String| (), |()| async { Some(0) });
    let _ = Stack::new().fallback(layer).service(client);
}
