//! A stack around a chaos layer whose client is already in a stack.

use buttress::{Stack, chaos::ChaosLayer, retry::ReplayClones};
use std::io;
use tower::{Layer, service_fn};

fn main() {
    let client = service_fn(|path: String| async move { Ok::<_, io::Error>(path.len()) });
    let client = Stack::new().service(client);
    let chaos = ChaosLayer::builder().hangs(0.1).build().unwrap();
    let _ = Stack::standard(ReplayClones).service(chaos.layer(client));
}
