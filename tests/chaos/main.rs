//! Tests of the chaos layer, alone and beneath the layers that it tries, on a paused clock.

#[path = "../capture/mod.rs"]
mod capture;

/// Builds an armed layer.
macro_rules! armed {
    ($builder:expr) => {{
        let layer = $builder.build().unwrap();
        layer.handle().arm_for(HOUR).unwrap();
        layer
    }};
}

mod arming;
mod beneath;
mod decisions;
mod faults;
mod limits;
mod readiness;
mod telemetry;
mod windows;

use std::{io, time::Duration};

use buttress::{
    chaos::{ChaosBuilder, ChaosLayer},
    testing::{Flaky, FlakyHandle, task::Spawned},
};
use tower::{Service, ServiceExt};

type Client = Flaky<u32, io::Error>;

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(10);

/// Returns a service that responds with 1, and its handle.
fn client() -> (Client, FlakyHandle<u32, io::Error>) {
    let client = Flaky::new([], || Ok(1));
    let handle = client.handle();
    (client, handle)
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

fn builder() -> ChaosBuilder {
    ChaosLayer::builder()
}

async fn call<S: Service<&'static str>>(service: &mut S) -> Result<S::Response, S::Error> {
    service.ready().await?.call("request").await
}

fn spawn<S: Service<&'static str>>(service: S) -> Spawned<tower::util::Oneshot<S, &'static str>> {
    Spawned::new(service.oneshot("request"))
}

/// Returns which of 64 calls failed.
async fn failed<S>(service: &mut S) -> Vec<bool>
where
    S: Service<&'static str, Response = u32>,
{
    let mut failed = Vec::new();
    for _ in 0..64 {
        failed.push(call(service).await.is_err());
    }
    failed
}

/// The layers that hold calls, and the number of calls that reach the service before the end.
fn holding() -> [(ChaosLayer, usize); 2] {
    let hangs = builder().hangs(1.0).build().unwrap();
    [(hangs, 0), (builder().lost_responses(1.0).build().unwrap(), 1)]
}
