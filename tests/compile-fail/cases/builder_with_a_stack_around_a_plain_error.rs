//! Recorded, not wished for: rustc shows none of our texts where a method is missing. The wished
//! text is that of `returned_builder_with_a_stack_around_a_plain_error`.
//!
//! A stack by tower's `ServiceBuilder`, around a client whose error knows nothing of rejections.

use buttress::{Stack, http::ReplaySafe};
use http::{Request, Response};
use std::io;
use tower::{ServiceBuilder, ServiceExt, service_fn};

fn main() {
    let client =
        service_fn(|_: Request<String>| async { Ok::<_, io::Error>(Response::new(String::new())) });
    let client =
        ServiceBuilder::new().layer(Stack::standard(ReplaySafe::new()).http()).service(client);
    let _ = client.oneshot(Request::new(String::new()));
}
