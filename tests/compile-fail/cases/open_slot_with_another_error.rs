//! A layer in an open slot that returns another error than the stack.

use buttress::{BoxError, Error, Stack};
use std::io;
use tower::{service_fn, util::MapErrLayer};

fn main() {
    let client = service_fn(|length: usize| async move { Ok::<_, io::Error>(length) });
    let boxed = MapErrLayer::new(|error: Error<io::Error>| BoxError::from(error));
    let _ = Stack::new().around_call(boxed).service(client);
}
