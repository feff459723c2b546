//! Three endpoints under tower's balancer: with `pend`, an open breaker takes its endpoint out of
//! the rotation; with the default, `reject`, it makes the sick one the most attractive of all.
//!
//! Run it with `cargo run --example balanced`. Its clock is paused, so it takes no time.

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

/// Spreads calls over the endpoints.
fn balanced(
    endpoints: &[Endpoint],
    breaker: CircuitBreakerBuilder,
) -> Result<
    impl Service<u32, Response = (), Error = BoxError, Future: Send> + Clone + use<>,
    ConfigError,
> {
    // Beneath the balancer, for each endpoint: what keeps it from being called in vain.
    let mut services = Vec::new();
    for endpoint in endpoints {
        let service = Stack::new()
            .circuit_breaker(breaker.clone().name(endpoint.name).build()?)
            .attempt_timeout(Duration::from_millis(200))
            .under_balancer()
            .boxed(service_fn({
                let endpoint = endpoint.clone();
                move |_call: u32| endpoint.clone().answer()
            }));
        services.push(PendingRequests::new(service, CompleteOnResponse::default()));
    }
    let balancer = Balance::new(ServiceList::new::<u32>(services));

    // Above it: what is about the call as a whole, so that a second attempt may go elsewhere. And a
    // stack with a total timeout is always ready: a balancer could not see that a breaker is not.
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

    println!(
        "300 calls in 3 s over the endpoints a, b and c; b is sick for the second in the middle"
    );
    let pend = story("pend", breaker.clone().pend()).await?;
    let reject = story("reject", breaker).await?;

    // Now and then a call meets nothing but the sick endpoint, before its breaker has seen enough.
    if pend.answered < CALLS - CALLS / 100 {
        return Err("with `pend`, hardly a caller should have noticed".into());
    }
    if reject.rejected < CALLS / 20 {
        return Err("with `reject`, the sick endpoint should have drawn calls".into());
    }
    Ok(())
}

const CALLS: u32 = 300;

#[derive(Default)]
struct Tally {
    answered: u32,
    rejected: u32,
    failed: u32,
}

async fn story(mode: &str, breaker: CircuitBreakerBuilder) -> Result<Tally, BoxError> {
    let endpoints = ["a", "b", "c"].map(Endpoint::new);
    let service = balanced(&endpoints, breaker)?;

    let mut calls = JoinSet::new();
    let mut next = interval(Duration::from_millis(10));
    for call in 0..CALLS {
        next.tick().await;
        endpoints[1].sick.store((100..200).contains(&call), Ordering::Relaxed);
        calls.spawn(service.clone().oneshot(call));
    }
    let mut tally = Tally::default();
    while let Some(result) = calls.join_next().await {
        match result? {
            Ok(()) => tally.answered += 1,
            // Buffer and balancer box errors: the rejection is found through the chain of causes.
            Err(error) if error.rejection().is_some() => tally.rejected += 1,
            Err(_) => tally.failed += 1,
        }
    }

    let Tally { answered, rejected, failed } = tally;
    print!("{mode:>6}: {answered} answered, {rejected} rejected, {failed} failed; sent to");
    for endpoint in &endpoints {
        print!(" {}: {}", endpoint.name, endpoint.received.load(Ordering::Relaxed));
    }
    println!();
    Ok(tally)
}

/// One of several servers that can answer the same.
#[derive(Clone)]
struct Endpoint {
    name: &'static str,
    sick: Arc<AtomicBool>,
    received: Arc<AtomicU32>,
}

impl Endpoint {
    fn new(name: &'static str) -> Self {
        Self { name, sick: Arc::default(), received: Arc::default() }
    }

    async fn answer(self) -> io::Result<()> {
        self.received.fetch_add(1, Ordering::Relaxed);
        if self.sick.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        sleep(Duration::from_millis(50)).await;
        Ok(())
    }
}
