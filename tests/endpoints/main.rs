//! Tests of endpoints.

#[cfg(feature = "http")]
#[path = "../support/bodies.rs"]
mod bodies;
mod breaker;
mod cancellation;
#[path = "../capture/mod.rs"]
mod capture;
mod changes;
mod checks;
mod choice;
mod ejection;
#[cfg(feature = "http")]
mod garbage;
mod hostile;
mod nested;
mod outcomes;
#[cfg(feature = "http")]
mod over_http;
mod recovery;
mod renewal;
#[cfg(feature = "http")]
mod sockets;

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use buttress::{
    CarryRejection, Error,
    endpoints::{EndpointStatus, Endpoints, EndpointsBuilder, EndpointsHandle},
};
use tower::{Service, ServiceExt};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

type Name = &'static str;
type Failure = Error<&'static str>;

/// The behaviour of an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Mode {
    #[default]
    Up,
    /// Responds after this time.
    Slow(Duration),
    Fails,
    /// Fails after this time.
    SlowFailure(Duration),
    Hangs,
    Panics,
    /// Reports an error instead of readiness.
    Dead,
    /// Is never ready.
    Unready,
}

#[derive(Debug, Default)]
struct Instance {
    mode: Mode,
    /// The number of times that the service was made.
    made: u32,
    calls: u32,
    readiness_polls: u32,
    dropped: u32,
}

/// The instances by their address.
#[derive(Clone, Debug, Default)]
struct World(Arc<Mutex<BTreeMap<Name, Instance>>>);

impl World {
    fn with<T>(&self, name: Name, f: impl FnOnce(&mut Instance) -> T) -> T {
        f(self.0.lock().unwrap().entry(name).or_default())
    }

    fn set(&self, name: Name, mode: Mode) {
        self.with(name, |it| it.mode = mode);
    }

    fn hangs(&self, name: Name) -> bool {
        self.with(name, |it| it.mode == Mode::Hangs)
    }

    fn calls(&self, name: Name) -> u32 {
        self.with(name, |it| it.calls)
    }

    fn made(&self, name: Name) -> u32 {
        self.with(name, |it| it.made)
    }

    fn builder<const N: usize>(&self, names: [Name; N]) -> EndpointsBuilder<Name, Client> {
        let world = self.clone();
        Endpoints::builder(names, move |name: &Name| {
            world.with(name, |it| it.made += 1);
            Client { name, world: world.clone(), sign: Arc::new(Sign(name, world.clone())) }
        })
    }

    fn endpoints<const N: usize>(&self, names: [Name; N]) -> Endpoints<Name, Client> {
        self.builder(names).build().unwrap()
    }
}

/// Notes when the last clone of a service was dropped.
#[derive(Debug)]
struct Sign(Name, World);

impl Drop for Sign {
    fn drop(&mut self) {
        self.1.with(self.0, |it| it.dropped += 1);
    }
}

/// The client of one instance.
#[derive(Clone, Debug)]
struct Client {
    name: Name,
    world: World,
    #[expect(dead_code, reason = "it is dropped")]
    sign: Arc<Sign>,
}

impl Service<()> for Client {
    type Response = Name;
    type Error = &'static str;
    type Future = Pin<Box<dyn Future<Output = Result<Name, &'static str>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        self.world.with(self.name, |it| {
            it.readiness_polls += 1;
            match it.mode {
                Mode::Dead => Poll::Ready(Err("dead")),
                Mode::Unready => Poll::Pending,
                _ => Poll::Ready(Ok(())),
            }
        })
    }

    fn call(&mut self, (): ()) -> Self::Future {
        let name = self.name;
        let mode = self.world.with(name, |it| {
            it.calls += 1;
            it.mode
        });
        Box::pin(async move {
            match mode {
                Mode::Slow(time) => tokio::time::sleep(time).await,
                Mode::Fails => return Err("down"),
                Mode::SlowFailure(time) => {
                    tokio::time::sleep(time).await;
                    return Err("down");
                }
                Mode::Hangs => std::future::pending().await,
                Mode::Panics => panic!("an instance"),
                _ => {}
            }
            Ok(name)
        })
    }
}

fn status(handle: &EndpointsHandle<Name>, name: Name) -> EndpointStatus {
    let states = handle.states();
    states.iter().find(|it| it.address == name).unwrap_or_else(|| panic!("no {name}")).status
}

fn in_flight(handle: &EndpointsHandle<Name>) -> u32 {
    handle.states().iter().map(|it| it.in_flight).sum()
}

/// Makes some calls one after the other, and returns how many have failed.
async fn calls<S>(service: &S, count: u32) -> u32
where
    S: Service<(), Error = Failure> + Clone,
{
    let mut failed = 0;
    for _ in 0..count {
        failed += u32::from(service.clone().oneshot(()).await.is_err());
    }
    failed
}

fn kind<T: std::fmt::Debug>(result: Result<T, Failure>) -> &'static str {
    result.expect_err("a rejection").rejection().expect("a rejection").kind()
}
