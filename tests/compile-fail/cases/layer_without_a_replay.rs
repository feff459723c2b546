//! A retry layer without a stack, for a request that cannot be cloned.

use buttress::{
    Error,
    retry::{ReplayClones, RetryLayer},
};
use std::io;
use tower::{Layer, Service, service_fn};

struct Upload(Vec<u8>);

fn client() -> impl Service<Upload, Response = usize, Error = Error<io::Error>> {
    let client =
        service_fn(|upload: Upload| async move { Ok::<_, Error<io::Error>>(upload.0.len()) });
    RetryLayer::new(ReplayClones).layer(client)
}

fn main() {
    let _ = client();
}
