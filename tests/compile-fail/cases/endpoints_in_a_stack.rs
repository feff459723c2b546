//! Endpoints beneath a stack, whose error can already carry a rejection.

use buttress::{Stack, endpoints::Endpoints, retry::ReplayClones};
use std::io;
use tower::service_fn;

fn main() {
    let endpoints = Endpoints::new(["a", "b"], |_: &&str| {
        service_fn(|path: String| async move { Ok::<_, io::Error>(path.len()) })
    });
    let _ = Stack::standard(ReplayClones).service(endpoints);
}
