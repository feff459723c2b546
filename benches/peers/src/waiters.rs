//! Measures how fast callers that share a call get its response.

use std::time::{Duration, Instant};

use buttress::cache::CacheLayer;
use tokio::sync::watch;
use tokio::task::{JoinHandle, yield_now};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::backend::{Request, Unavailable};
use crate::measure::{Harness, median};
use crate::peers::tower_resilience;

const WAITERS: u64 = 10_000;
const ROUNDS: usize = 9;

pub fn print(harness: &Harness) {
    for (side, nanos) in [("buttress", ours(harness)), ("tower-resilience", theirs(harness))] {
        let millis = nanos / 1e6;
        println!(r#"waiters {{"side":"{side}","callers":{WAITERS},"ms":{millis:.2}}}"#);
    }
}

/// Creates a service that responds once it is told to.
macro_rules! waiting {
    ($response:expr, $error:ty) => {{
        let response: watch::Receiver<bool> = $response;
        service_fn(move |request: Request| {
            let mut response = response.clone();
            async move {
                let _ = response.wait_for(|is_there| *is_there).await;
                Ok::<_, $error>(request.0)
            }
        })
    }};
}

fn ours(harness: &Harness) -> f64 {
    rounds(harness, |response| {
        let cache = CacheLayer::by_fn(|_: &Request| Some(0_u64)).build().expect("valid settings");
        cache.layer(waiting!(response, buttress::Error<Unavailable>))
    })
}

fn theirs(harness: &Harness) -> f64 {
    rounds(harness, |response| tower_resilience::coalesced(waiting!(response, Unavailable)))
}

/// Returns the time from the response of the shared call until each caller has it.
///
/// All run on one thread, so this is at least their CPU time.
fn rounds<S>(harness: &Harness, service: impl Fn(watch::Receiver<bool>) -> S) -> f64
where
    S: Service<Request, Response = u64, Error: Send, Future: Send> + Clone + Send + 'static,
{
    let round = |_| {
        harness.runtime().block_on(async {
            let (respond, response) = watch::channel(false);
            let service = service(response);
            let callers: Vec<JoinHandle<_>> =
                (0..WAITERS).map(|_| tokio::spawn(service.clone().oneshot(Request(0)))).collect();
            // Longer than it takes until all callers wait.
            tokio::time::sleep(Duration::from_millis(50)).await;
            yield_now().await;
            let start = Instant::now();
            let _ = respond.send(true);
            for caller in callers {
                assert!(caller.await.is_ok_and(|result| result.is_ok()), "each gets the response");
            }
            start.elapsed().as_nanos() as f64
        })
    };
    median((0..ROUNDS).map(round).collect())
}
