//! `oneshot` of a layer around a plain error. rustc shows none of our texts, which is not wanted.

use buttress::timeout::TimeoutLayer;
use std::{io, time::Duration};
use tower::{Layer, ServiceExt, service_fn};

fn main() {
    let client = service_fn(|path: String| async move { Ok::<_, io::Error>(path.len()) });
    let service = TimeoutLayer::new(Duration::from_secs(2)).layer(client);
    let _ = service.oneshot("/orders".to_owned());
}
