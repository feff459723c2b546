//! One client for many hosts, and a breaker for each: only the host that fails is left alone.
//!
//! Run it with `cargo run --example per_host_breakers`. Its clock is paused, so it takes no time.

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
    // Stands for the one HTTP client that a program uses for all hosts.
    let mail_is_down = Arc::new(AtomicBool::new(true));
    let client = service_fn({
        let mail_is_down = Arc::clone(&mail_is_down);
        move |request: Request| {
            let down = host(&request) == "mail.example" && mail_is_down.load(Ordering::Relaxed);
            let answer = if down { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) };
            async { answer }
        }
    });

    let breakers = CircuitBreakerLayer::builder()
        .name("outbound")
        .minimum_calls(10)
        .open_for(Duration::from_secs(5))
        .keyed_fn(host)
        // Where hosts come from outside, somebody may well send a million of them.
        .max_keys(1_000)
        .idle(Duration::from_secs(600))
        .build()?;
    let stack = Stack::new()
        .circuit_breaker(breakers.clone())
        .attempt_timeout(Duration::from_secs(1))
        .service(client);
    // There is no breaker for a host that was never called.
    let breaker = |host: &str| breakers.handle(&host.to_owned()).map(|handle| handle.state());

    println!("mail.example is down, and each host gets thirty calls:");
    let mail = thirty_calls(&stack, "mail.example").await?;
    let shop = thirty_calls(&stack, "shop.example").await?;
    ensure(
        mail == Tally { answered: 0, failed: 10, rejected: 20 },
        "a host that is down is left alone",
    )?;
    ensure(breaker("mail.example") == Some(State::Open), "its breaker is open")?;
    ensure(shop == Tally { answered: 30, ..Tally::default() }, "the other host is called as ever")?;
    ensure(breaker("shop.example") == Some(State::Closed), "its breaker is closed")?;

    println!("mail.example is up again, and some time later:");
    mail_is_down.store(false, Ordering::Relaxed);
    sleep(Duration::from_secs(10)).await;
    let mail = thirty_calls(&stack, "mail.example").await?;
    ensure(mail == Tally { answered: 30, ..Tally::default() }, "the host is called again")?;
    ensure(breaker("mail.example") == Some(State::Closed), "its probes have closed the breaker")?;
    ensure(breakers.keys() == 2, "there is one breaker for each host that was called")
}

/// The key: what fails together shares a breaker.
fn host(request: &Request) -> String {
    request.uri().host().unwrap_or_default().to_owned()
}

/// What became of some calls.
#[derive(Debug, Default, PartialEq)]
struct Tally {
    answered: u32,
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
            Ok(()) => tally.answered += 1,
            Err(Error::Service(_)) => tally.failed += 1,
            Err(Error::Rejected(_)) => tally.rejected += 1,
        }
    }
    println!("  {host}: {tally:?}");
    Ok(tally)
}

/// Says what should be so, and ends the example if it is not.
fn ensure(holds: bool, what: &'static str) -> Result<(), BoxError> {
    if !holds {
        return Err(format!("not so: {what}").into());
    }
    println!("  {what}");
    Ok(())
}
