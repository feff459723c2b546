//! A layer without a stack, around a client whose error cannot carry a rejection.

use buttress::timeout::TimeoutLayer;
use std::{io, time::Duration};
use tower::{Layer, Service, service_fn};

fn client() -> impl Service<String, Response = usize> {
    let client = service_fn(|path: String| async move { Ok::<_, io::Error>(path.len()) });
    TimeoutLayer::new(Duration::from_secs(2)).layer(client)
}

fn main() {
    let _ = client();
}
