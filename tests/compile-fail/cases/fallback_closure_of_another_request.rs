//! A fallback whose closure takes another request than the service.

use buttress::{Stack, fallback::FallbackLayer};
use std::io;
use tower::service_fn;

fn main() {
    let client = service_fn(|path: String| async move { Ok::<_, io::Error>(path.len()) });
    let layer = FallbackLayer::from_fn(|id: &u64| *id, |id, _| async move { Some(id as usize) });
    let _ = Stack::new().fallback(layer).service(client);
}
