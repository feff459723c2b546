//! Runs circuit breakers beneath tower's balancer, in the modes `pend` and `reject`.
//!
//! ```sh
//! cargo run --example balanced
//! ```
//!
//! With `pend`, an open breaker takes its endpoint out of the rotation. With `reject`, the default,
//! the failing endpoint looks like the fastest of all.
//!
//! Tokio's clock is paused, so the example ends at once.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use buttress::{
    BoxError, CarryRejection, ConfigError, Stack,
    circuit_breaker::{CircuitBreakerBuilder, CircuitBreakerLayer},
    retry::{ReplayClones, RetryLayer},
};
use tokio::{
    task::JoinSet,
    time::{interval, sleep},
};
use tower::{
    Service, ServiceExt,
    balance::p2c::Balance,
    buffer::Buffer,
    discover::ServiceList,
    load::{CompleteOnResponse, PendingRequests},
    service_fn,
};

/// Builds a client that spreads calls over the endpoints.
fn balanced(
    endpoints: &[Endpoint],
    breaker: CircuitBreakerBuilder,
) -> Result<
    impl Service<u32, Response = (), Error = BoxError, Future: Send> + Clone + use<>,
    ConfigError,
> {
    // Beneath the balancer each endpoint has a breaker and an attempt timeout of its own.
    let mut services = Vec::new();
    for endpoint in endpoints {
        let service = Stack::new()
            .circuit_breaker(breaker.clone().name(endpoint.name).build()?)
            .attempt_timeout(Duration::from_millis(200))
            .under_balancer()
            .boxed(service_fn({
                let endpoint = endpoint.clone();
                move |_call: u32| endpoint.clone().respond()
            }));
        services.push(PendingRequests::new(service, CompleteOnResponse::default()));
    }
    let balancer = Balance::new(ServiceList::new::<u32>(services));

    // The total timeout and the retry are above the balancer, so that a second attempt may go to
    // another endpoint. A stack with a total timeout is always ready. Beneath the balancer, it
    // would hide that a breaker is not ready.
    Ok(Stack::new()
        .total_timeout(Duration::from_secs(1))
        .retry(RetryLayer::new(ReplayClones))
        .boxed(Buffer::new(balancer, 64)))
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), BoxError> {
    let breaker = CircuitBreakerLayer::builder()
        .consecutive_failures(3)
        .open_for(Duration::from_millis(200))
        .max_open_for(Duration::from_millis(200));

    println!("300 calls in 3 s over the endpoints a, b and c; b fails for the middle second");
    let pend = run("pend", breaker.clone().pend()).await?;
    let reject = run("reject", breaker).await?;

    // A few calls fail, because all their attempts reach the failing endpoint before its breaker
    // opens.
    if pend.ok < CALLS - CALLS / 100 {
        return Err("with `pend`, at least 99 % of the calls should succeed".into());
    }
    if reject.rejected < CALLS / 20 {
        return Err("with `reject`, the failing endpoint should attract calls".into());
    }
    Ok(())
}

const CALLS: u32 = 300;

#[derive(Default)]
struct Tally {
    ok: u32,
    rejected: u32,
    failed: u32,
}

async fn run(mode: &str, breaker: CircuitBreakerBuilder) -> Result<Tally, BoxError> {
    let endpoints = ["a", "b", "c"].map(Endpoint::new);
    let service = balanced(&endpoints, breaker)?;

    let mut calls = JoinSet::new();
    let mut next = interval(Duration::from_millis(10));
    for call in 0..CALLS {
        next.tick().await;
        endpoints[1].failing.store((100..200).contains(&call), Ordering::Relaxed);
        calls.spawn(service.clone().oneshot(call));
    }
    let mut tally = Tally::default();
    while let Some(result) = calls.join_next().await {
        match result? {
            Ok(()) => tally.ok += 1,
            // Buffer and balancer box their errors. The rejection is in the chain of sources.
            Err(error) if error.rejection().is_some() => tally.rejected += 1,
            Err(_) => tally.failed += 1,
        }
    }

    let Tally { ok, rejected, failed } = tally;
    print!("{mode:>6}: {ok} ok, {rejected} rejected, {failed} failed; sent to");
    for endpoint in &endpoints {
        print!(" {}: {}", endpoint.name, endpoint.received.load(Ordering::Relaxed));
    }
    println!();
    Ok(tally)
}

/// One of several equal servers.
#[derive(Clone)]
struct Endpoint {
    name: &'static str,
    failing: Arc<AtomicBool>,
    received: Arc<AtomicU32>,
}

impl Endpoint {
    fn new(name: &'static str) -> Self {
        Self { name, failing: Arc::default(), received: Arc::default() }
    }

    async fn respond(self) -> io::Result<()> {
        self.received.fetch_add(1, Ordering::Relaxed);
        if self.failing.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        sleep(Duration::from_millis(50)).await;
        Ok(())
    }
}
