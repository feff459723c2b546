//! The text is recorded but not wanted. rustc shows none of our texts where a method is missing.
//! The wanted text is in `returned_builder_with_a_stack_around_a_plain_error`.
//!
//! A stack in tower's `ServiceBuilder`, around a client whose error cannot carry a rejection.

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
