//! The properties of several layers together.

mod above;
#[cfg(feature = "http")]
mod broken;
#[path = "../capture/mod.rs"]
mod capture;
mod deadlines;
mod degraded;
mod endpoints;
#[cfg(feature = "http")]
mod http;
mod keys;

use std::{
    future::{Future, pending},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use buttress::{
    CarryRejection, Deadline, Error,
    cache::{ByFn, CacheBuilder, CacheLayer},
    fallback::{FallbackLayer, FallbackValue},
    retry::{ReplayClones, RetryLayer},
};
use tokio::time::{Instant, sleep};
use tower::{Service, ServiceExt};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

type MapErr<S> = tower::util::MapErr<S, fn(Text) -> Failure>;
type Text = &'static str;
type Failure = Error<Text>;
type ByKey = ByFn<fn(&u32) -> Option<u32>, Text>;

/// The behaviour of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Mode {
    #[default]
    Up,
    Slow(Duration),
    Fails(Text),
    Hangs,
}

/// The service of a [`World`].
trait Responds:
    Service<u32, Response = Text, Error = Text, Future: Send> + Clone + Send + 'static
{
}

impl<S> Responds for S where
    S: Service<u32, Response = Text, Error = Text, Future: Send> + Clone + Send + 'static
{
}

/// A service whose behaviour changes.
#[derive(Clone, Debug, Default)]
struct World {
    mode: Arc<Mutex<Mode>>,
    calls: Arc<AtomicU32>,
}

impl World {
    fn new(mode: Mode) -> Self {
        let world = Self::default();
        world.set(mode);
        world
    }

    fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    fn calls(&self) -> u32 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Returns the service.
    fn service(&self) -> impl Responds + use<> {
        let world = self.clone();
        tower::service_fn(move |_: u32| {
            world.calls.fetch_add(1, Ordering::Relaxed);
            let mode = *world.mode.lock().unwrap();
            async move {
                match mode {
                    Mode::Up => Ok("fresh"),
                    Mode::Slow(time) => {
                        sleep(time).await;
                        Ok("fresh")
                    }
                    Mode::Fails(text) => Err(text),
                    Mode::Hangs => pending().await,
                }
            }
        })
    }
}

/// Returns a builder of a cache by the request itself, of which 0 is not cached.
fn cache() -> CacheBuilder<u32, Text, ByKey> {
    let key: fn(&u32) -> Option<u32> = |request| Some(*request).filter(|key| *key > 0);
    CacheLayer::by_fn(key)
}

fn fallback() -> FallbackLayer<FallbackValue<Text>> {
    FallbackLayer::value("fallback")
}

fn no_retries() -> RetryLayer<ReplayClones> {
    RetryLayer::builder(ReplayClones).retries(0).build().unwrap()
}

/// Makes a call with this much time.
async fn within<F: Future>(time: Duration, call: F) -> F::Output {
    Deadline::scope(Deadline::after(time), call).await.expect("the call ends in time")
}

/// The error of a flat stack.
fn flat<S: Service<u32, Response = Text, Error = Text>>(service: S) -> MapErr<S> {
    service.map_err(Error::Service as fn(Text) -> Failure)
}

async fn ask<S>(service: &S, key: u32) -> Result<Text, Failure>
where
    S: Service<u32, Response = Text, Error = Failure> + Clone,
{
    service.clone().oneshot(key).await
}

fn kind<T: std::fmt::Debug>(result: Result<T, Failure>) -> &'static str {
    result.expect_err("a rejection").rejection().expect("a rejection").kind()
}

/// Lets the tasks run that are ready.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}
