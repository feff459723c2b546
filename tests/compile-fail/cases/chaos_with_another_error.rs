//! A chaos layer whose closure returns another error than the client.

use buttress::{Stack, chaos::ChaosLayer, retry::ReplayClones};
use std::{fmt, io};
use tower::{Layer, service_fn};

fn main() {
    let client = service_fn(|path: String| async move { Ok::<_, io::Error>(path.len()) });
    let chaos = ChaosLayer::builder().errors_fn(0.1, || fmt::Error).build().unwrap();
    let _ = Stack::standard(ReplayClones).service(chaos.layer(client));
}
