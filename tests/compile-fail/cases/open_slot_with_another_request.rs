//! A layer in an open slot that takes another request than the client.
//! The error points at the closure of the layer.

use buttress::Stack;
use std::io;
use tower::{service_fn, util::MapRequestLayer};

fn main() {
    let client = service_fn(|length: usize| async move { Ok::<_, io::Error>(length) });
    let length = MapRequestLayer::new(|path: String| path.len());
    let _ = Stack::new().around_call(length).service(client);
}
