//! Opens a circuit breaker by hand for maintenance of a dependency, and closes it again.
//!
//! ```sh
//! cargo run --example operator_switch
//! ```
//!
//! Tokio's clock is paused, so the example ends at once.

use std::{convert::Infallible, time::Duration};

use buttress::{
    BoxError, Error, Rejection, Stack,
    bulkhead::BulkheadLayer,
    circuit_breaker::{CircuitBreakerLayer, State},
};
use tokio::time::{sleep, timeout};
use tower::{ServiceExt, service_fn};

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), BoxError> {
    let database = service_fn(|query: &'static str| async move {
        sleep(Duration::from_millis(300)).await;
        Ok::<_, Infallible>(format!("the result of {query}"))
    });

    // An operator uses the handles, for example through an admin endpoint or a signal handler.
    let breaker = CircuitBreakerLayer::builder().name("database").build()?;
    let bulkhead = BulkheadLayer::builder().name("database").max_concurrent(10).build()?;
    let (switch, load) = (breaker.handle(), bulkhead.handle());
    let stack = Stack::new().bulkhead(bulkhead).circuit_breaker(breaker).service(database);

    // Any number of tasks can watch the state.
    let mut watch = switch.watch();
    let dashboard = tokio::spawn(async move {
        let mut seen = Vec::new();
        while seen.last() != Some(&State::Closed) {
            let state = watch.changed().await;
            println!("  dashboard: the breaker is {state:?}");
            seen.push(state);
        }
        seen
    });

    println!("three queries are in flight when the operator opens the circuit");
    let in_flight: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .map(|query| tokio::spawn(stack.clone().oneshot(query)))
        .collect();
    sleep(Duration::from_millis(100)).await;
    switch.force_open();

    match stack.clone().oneshot("d").await {
        Err(Error::Rejected(Rejection::CircuitOpen(rejection))) => {
            println!("a new query: {rejection}")
        }
        other => return Err(format!("a query reached the drained database: {other:?}").into()),
    }
    for query in in_flight {
        println!("an earlier query: {}", query.await??);
    }
    if load.in_flight() != 0 {
        return Err("the database is still in use".into());
    }

    println!("no query is in flight: ten minutes of maintenance");
    sleep(Duration::from_secs(600)).await;
    // A circuit that was opened by hand admits no probes. It stays open until it is reset.
    if switch.state() != State::ForcedOpen {
        return Err("the breaker did not wait for the operator".into());
    }

    switch.reset();
    println!("the operator resets the breaker: {}", stack.oneshot("e").await?);
    let seen = timeout(Duration::from_secs(1), dashboard).await??;
    if seen != [State::ForcedOpen, State::Closed] {
        return Err(format!("the dashboard saw {seen:?}").into());
    }
    Ok(())
}
