//! A stack around a service that is already in a stack.

use buttress::{Stack, retry::ReplayClones};
use std::io;
use tower::service_fn;

fn main() {
    let client = service_fn(|path: String| async move { Ok::<_, io::Error>(path.len()) });
    let inner = Stack::standard(ReplayClones).service(client);
    let _ = Stack::new().service(inner);
}
