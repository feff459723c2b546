//! Gives each host a circuit breaker, so that only calls to the failing host are rejected.
//!
//! ```sh
//! cargo run --example per_host_breakers
//! ```
//!
//! Tokio's clock is paused, so the example ends at once.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use buttress::{
    BoxError, Error, Stack,
    circuit_breaker::{CircuitBreakerLayer, State},
};
use tokio::time::sleep;
use tower::{Service, ServiceExt, service_fn};

type Request = hyper::Request<()>;

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), BoxError> {
    // Stands for the HTTP client that a program uses for all hosts.
    let mail_is_down = Arc::new(AtomicBool::new(true));
    let client = service_fn({
        let mail_is_down = Arc::clone(&mail_is_down);
        move |request: Request| {
            let down = host(&request) == "mail.example" && mail_is_down.load(Ordering::Relaxed);
            let result = if down { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) };
            async { result }
        }
    });

    let breakers = CircuitBreakerLayer::builder()
        .name("outbound")
        .minimum_calls(10)
        .open_for(Duration::from_secs(5))
        .keyed_fn(host)
        // The breakers need a limit, because a caller may send any number of host names.
        .max_keys(1_000)
        .idle(Duration::from_secs(600))
        .build()?;
    let stack = Stack::new()
        .circuit_breaker(breakers.clone())
        .attempt_timeout(Duration::from_secs(1))
        .service(client);
    // A host has no breaker before its first call.
    let breaker = |host: &str| breakers.handle(&host.to_owned()).map(|handle| handle.state());

    println!("mail.example is down; each host gets 30 calls:");
    let mail = thirty_calls(&stack, "mail.example").await?;
    let shop = thirty_calls(&stack, "shop.example").await?;
    ensure(
        mail == Tally { ok: 0, failed: 10, rejected: 20 },
        "after 10 failures, calls to the host that is down are rejected",
    )?;
    ensure(breaker("mail.example") == Some(State::Open), "its breaker is open")?;
    ensure(shop == Tally { ok: 30, ..Tally::default() }, "calls to the other host go on")?;
    ensure(breaker("shop.example") == Some(State::Closed), "its breaker is closed")?;

    println!("10 s later mail.example is up again:");
    mail_is_down.store(false, Ordering::Relaxed);
    sleep(Duration::from_secs(10)).await;
    let mail = thirty_calls(&stack, "mail.example").await?;
    ensure(mail == Tally { ok: 30, ..Tally::default() }, "calls to the host succeed again")?;
    ensure(breaker("mail.example") == Some(State::Closed), "its probes have closed the breaker")?;
    ensure(breakers.keys() == 2, "there is one breaker per host")
}

/// Returns the key. Requests with the same key share a breaker.
fn host(request: &Request) -> String {
    request.uri().host().unwrap_or_default().to_owned()
}

/// The results of some calls.
#[derive(Debug, Default, PartialEq)]
struct Tally {
    ok: u32,
    failed: u32,
    rejected: u32,
}

async fn thirty_calls<S>(stack: &S, host: &str) -> Result<Tally, BoxError>
where
    S: Service<Request, Response = (), Error = Error<io::Error>> + Clone,
{
    let mut tally = Tally::default();
    for _ in 0..30 {
        let request = hyper::Request::get(format!("http://{host}/")).body(())?;
        match stack.clone().oneshot(request).await {
            Ok(()) => tally.ok += 1,
            Err(Error::Service(_)) => tally.failed += 1,
            Err(Error::Rejected(_)) => tally.rejected += 1,
        }
    }
    println!("  {host}: {tally:?}");
    Ok(tally)
}

/// Prints a claim, or returns an error if it does not hold.
fn ensure(holds: bool, what: &'static str) -> Result<(), BoxError> {
    if !holds {
        return Err(format!("does not hold: {what}").into());
    }
    println!("  {what}");
    Ok(())
}
