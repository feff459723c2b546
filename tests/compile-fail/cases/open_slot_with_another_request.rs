//! A layer in an open slot that takes another request than the client. Recorded, not wished for: the
//! request type is inferred from the layer, and rustc then points at the client.

use buttress::Stack;
use std::io;
use tower::{service_fn, util::MapRequestLayer};

fn main() {
    let client = service_fn(|length: usize| async move { Ok::<_, io::Error>(length) });
    let length = MapRequestLayer::new(|path: String| path.len());
    let _ = Stack::new().around_call(length).service(client);
}
