//! A layer in an open slot that returns another response than the client.

use buttress::Stack;
use std::{future::ready, io};
use tower::{service_fn, util::MapResponseLayer};

fn main() {
    let client = service_fn(|length: usize| ready(Ok::<_, io::Error>(length)));
    let text = MapResponseLayer::new(|length: usize| length.to_string());
    let _ = Stack::new().around_call(text).service(client);
}
