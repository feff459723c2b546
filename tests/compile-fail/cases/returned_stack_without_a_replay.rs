//! A function that returns a stack, for a request that cannot be cloned.

use buttress::{Error, Stack, retry::ReplayClones};
use std::io;
use tower::{Service, service_fn};

struct Upload(Vec<u8>);

fn client() -> impl Service<Upload, Response = usize, Error = Error<io::Error>> {
    let client = service_fn(|upload: Upload| async move { Ok::<_, io::Error>(upload.0.len()) });
    Stack::standard(ReplayClones).service(client)
}

fn main() {
    let _ = client();
}
