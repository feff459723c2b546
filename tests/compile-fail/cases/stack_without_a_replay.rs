//! A request that cannot be cloned.

use buttress::{Stack, retry::ReplayClones};
use std::io;
use tower::service_fn;

struct Upload(Vec<u8>);

fn main() {
    let client = service_fn(|upload: Upload| async move { Ok::<_, io::Error>(upload.0.len()) });
    let _ = Stack::standard(ReplayClones).service(client);
}
