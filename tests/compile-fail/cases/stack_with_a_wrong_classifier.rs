//! A classifier for the client's own error, although the error of the stack is `Error<E>`.

use buttress::{Outcome, Stack, retry::ReplayClones};
use std::io;
use tower::service_fn;

fn main() {
    let client = service_fn(|path: String| async move { Ok::<_, io::Error>(path.len()) });
    let _ = Stack::standard(ReplayClones)
        .classify_fn(|_: Result<&usize, &io::Error>| Outcome::Success)
        .service(client);
}
