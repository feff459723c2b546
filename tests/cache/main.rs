//! The properties of the cache, for responses that are not HTTP.

#[path = "../support/armed.rs"]
mod armed;
mod cancellation;
#[path = "../capture/mod.rs"]
mod capture;
mod forgetting;
mod hangs;
mod hits;
mod hostile;
mod keep;
mod outdated;
mod sharing;
mod stale;
mod telemetry;

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use buttress::{
    Error,
    cache::{ByFn, CacheBuilder, CacheLayer},
};
use tower::Service;

const SECOND: Duration = Duration::from_secs(1);

type Result = std::result::Result<u32, Error<io::Error>>;
type Answer = Pin<Box<dyn Future<Output = Result> + Send>>;
type Script = Arc<dyn Fn(u32, u32) -> Answer + Send + Sync>;

/// A service whose n-th call of a key does what a script says.
#[derive(Clone)]
struct Backend {
    calls: Arc<AtomicU32>,
    dropped: Arc<AtomicU32>,
    script: Arc<Mutex<Script>>,
}

impl Backend {
    /// Creates a service that responds after `time` with the number of the call.
    fn after(time: Duration) -> Self {
        Self::new(move |_, call| {
            Box::pin(async move {
                tokio::time::sleep(time).await;
                Ok(call)
            })
        })
    }

    fn new(script: impl Fn(u32, u32) -> Answer + Send + Sync + 'static) -> Self {
        let script: Script = Arc::new(script);
        let (calls, dropped) = (Arc::default(), Arc::default());
        Self { calls, dropped, script: Arc::new(Mutex::new(script)) }
    }

    /// Lets later calls do what another script says.
    fn does(&self, script: impl Fn(u32, u32) -> Answer + Send + Sync + 'static) {
        *self.script.lock().unwrap() = Arc::new(script);
    }

    fn fails(&self) {
        self.does(|_, _| Box::pin(async { Err(Error::Service(io::ErrorKind::Other.into())) }));
    }

    fn hangs(&self) {
        self.does(|_, _| Box::pin(std::future::pending()));
    }

    fn calls(&self) -> u32 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Returns the number of calls that were dropped before their end.
    fn dropped(&self) -> u32 {
        self.dropped.load(Ordering::Relaxed)
    }
}

struct Counted {
    answer: Answer,
    dropped: Option<Arc<AtomicU32>>,
}

impl Future for Counted {
    type Output = Result;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result> {
        let polled = self.answer.as_mut().poll(cx);
        if polled.is_ready() {
            self.dropped = None;
        }
        polled
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(dropped) = &self.dropped {
            dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Service<u32> for Backend {
    type Response = u32;
    type Error = Error<io::Error>;
    type Future = Counted;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, key: u32) -> Counted {
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let script = Arc::clone(&self.script.lock().unwrap());
        Counted { answer: script(key, call), dropped: Some(Arc::clone(&self.dropped)) }
    }
}

type ByKey = ByFn<fn(&u32) -> Option<u32>, u32>;

/// Returns a builder of a cache by the request itself, of which 0 is not cached.
fn cache() -> CacheBuilder<u32, u32, ByKey> {
    let key: fn(&u32) -> Option<u32> = |request| Some(*request).filter(|key| *key > 0);
    CacheLayer::by_fn(key)
}

/// Lets the tasks run that are ready.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}
