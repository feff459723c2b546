//! A fallback whose value is not `Clone`, although each call needs one.

use buttress::{Stack, fallback::FallbackLayer};
use std::io;
use tower::service_fn;

struct Page;

fn main() {
    let client = service_fn(|_: String| async { Ok::<_, io::Error>(Page) });
    let _ = Stack::new().fallback(FallbackLayer::value(Page)).service(client);
}
