//! Gives each host a stack, so that a dead host and a hanging host harm no other host.
//!
//! ```sh
//! cargo run --example per_host
//! ```
//!
//! It first sends the same calls through one stack, which has a breaker for each host. The hosts
//! then share slots and retries. Tokio's clock is paused, so the example ends at once.

use std::{
    collections::BTreeMap,
    future::pending,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use buttress::{
    BoxError, Error, Stack,
    bulkhead::BulkheadLayer,
    circuit_breaker::{CircuitBreakerLayer, State},
    context::Attempt,
    http::{HttpStack, ResponseBody, by_authority},
};
use hyper::{Request, Response};
use tokio::{task::JoinSet, time::sleep};
use tower::{Service, ServiceExt, service_fn};

const DEAD: &str = "dead.example";
const HANGING: &str = "hanging.example";
const HEALTHY: &str = "healthy.example";

/// The number of calls to each host. Every tenth call of the healthy host needs a retry.
const CALLS: u32 = 200;

type Failure = Error<io::Error>;

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), BoxError> {
    println!("one stack for all hosts, with a breaker for each:");
    let one = Hosts::default();
    let breakers = CircuitBreakerLayer::builder().keyed_fn(by_authority::<String>).build()?;
    let client = template()?.circuit_breaker(breakers).service(one.client());
    let tallies = one.call_all(client).await?;
    ensure(
        tallies[HEALTHY].ok < CALLS * 3 / 4,
        "the healthy host loses more than a quarter of its calls",
    )?;

    println!("a stack for each host:");
    let many = Hosts::default();
    let template = template()?;
    let stacks = Stack::by_key(by_authority::<String>, move |_| template.fresh())
        // The stacks need a limit, because a caller may send any number of host names.
        .max_keys(1_000)
        .idle(Duration::from_secs(600))
        // Shows the host in events and errors. Without it, keys are treated as secrets.
        .describe_fn(String::clone)
        .build()?;
    let client = stacks.service(many.client());
    let tallies = many.call_all(client.clone()).await?;

    let healthy = tallies[HEALTHY];
    ensure(healthy.ok == CALLS, "every call to the healthy host succeeds")?;
    ensure(healthy.retries == CALLS / 10, "the dead host has used up none of its retries")?;
    ensure(healthy.rejected == 0, "the hanging host has taken none of its slots")?;
    for ill in [DEAD, HANGING] {
        let Tally { ok, rejected, .. } = tallies[ill];
        ensure(ok == 0 && rejected > CALLS / 2, "most calls to an ill host are rejected at once")?;
    }
    let mut open = Vec::new();
    stacks.for_each(|host, stack| {
        let breaker = stack.circuit_breaker_handle().map(|breaker| breaker.state());
        let tokens = stack.retry_budget().map(|budget| budget.balance().floor());
        println!("  {host}: breaker {breaker:?}, tokens for retries {tokens:?}");
        if breaker == Some(State::Open) {
            open.push(host.clone());
        }
    });
    open.sort();
    ensure(open == [DEAD, HANGING], "the breakers of the two ill hosts are open")?;
    let error = client.oneshot(request(DEAD)?).await.err().map(|error| error.to_string());
    let named = error.is_some_and(|error| error.starts_with("circuit_breaker (dead.example): "));
    ensure(named, "the error names the host")?;

    let fields: Vec<_> =
        tallies.iter().map(|(host, tally)| format!("\"{host}\":{}", tally.json())).collect();
    println!("summary {{{}}}", fields.join(","));
    Ok(())
}

/// Returns a standard stack with 16 slots.
fn template() -> Result<HttpStack, BoxError> {
    let bulkhead = BulkheadLayer::builder().max_concurrent(16).build()?;
    Ok(Stack::standard_http().bulkhead(bulkhead))
}

/// The results of the calls to one host.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    calls: u32,
    ok: u32,
    rejected: u32,
    retries: u32,
}

impl Tally {
    fn json(&self) -> String {
        let Self { calls, ok, rejected, retries } = self;
        format!("{{\"calls\":{calls},\"ok\":{ok},\"rejected\":{rejected},\"retries\":{retries}}}")
    }
}

type Tallies = BTreeMap<&'static str, Tally>;

/// The hosts, and the results of the calls to each.
#[derive(Clone, Default)]
struct Hosts {
    tallies: Arc<Mutex<Tallies>>,
}

impl Hosts {
    fn count(&self, host: &'static str, change: impl FnOnce(&mut Tally)) {
        change(self.tallies.lock().unwrap().entry(host).or_default());
    }

    /// Stands for the HTTP client that a program uses for all hosts.
    fn client(
        &self,
    ) -> impl Service<
        Request<String>,
        Response = Response<String>,
        Error = io::Error,
        Future: Send + 'static,
    > + Clone
    + Send
    + 'static {
        let hosts = self.clone();
        service_fn(move |request: Request<String>| {
            let hosts = hosts.clone();
            async move {
                let host = match request.uri().host() {
                    Some(DEAD) => DEAD,
                    Some(HANGING) => HANGING,
                    _ => HEALTHY,
                };
                let attempt = Attempt::current().map_or(1, |attempt| attempt.number());
                if attempt > 1 {
                    hosts.count(host, |tally| tally.retries += 1);
                }
                match host {
                    DEAD => Err(io::ErrorKind::ConnectionReset.into()),
                    HANGING => pending().await,
                    // A restart interrupts some calls.
                    _ if attempt == 1 && request.uri().path().ends_with('0') => {
                        Err(io::ErrorKind::ConnectionReset.into())
                    }
                    _ => Ok(Response::new(String::new())),
                }
            }
        })
    }

    /// Calls each host every 50 ms, and does not wait for the response before the next call.
    async fn call_all<S>(&self, client: S) -> Result<Tallies, BoxError>
    where
        S: Service<Request<String>, Response = Response<ResponseBody<String>>, Error = Failure>,
        S: Clone + Send + 'static,
        S::Future: Send,
    {
        let mut calls = JoinSet::new();
        for number in 0..CALLS {
            for host in [DEAD, HANGING, HEALTHY] {
                let request = Request::get(format!("http://{host}/{number}")).body(String::new())?;
                let (client, hosts) = (client.clone(), self.clone());
                calls.spawn(async move {
                    let result = client.oneshot(request).await;
                    hosts.count(host, |tally| match result {
                        Ok(_) => tally.ok += 1,
                        Err(Error::Rejected(error)) if error.nothing_began() => tally.rejected += 1,
                        Err(_) => {}
                    });
                });
                self.count(host, |tally| tally.calls += 1);
            }
            sleep(Duration::from_millis(50)).await;
        }
        calls.join_all().await;
        let tallies = self.tallies.lock().unwrap().clone();
        for (host, tally) in &tallies {
            println!("  {host}: {tally:?}");
        }
        Ok(tallies)
    }
}

fn request(host: &str) -> Result<Request<String>, BoxError> {
    Ok(Request::get(format!("http://{host}/")).body(String::new())?)
}

/// Prints a claim, or returns an error if it does not hold.
fn ensure(holds: bool, what: &'static str) -> Result<(), BoxError> {
    if !holds {
        return Err(format!("does not hold: {what}").into());
    }
    println!("  {what}");
    Ok(())
}
