//! A dependency is drained by hand for maintenance, and put back: a breaker is also a switch.
//!
//! Run it with `cargo run --example operator_switch`. Its clock is paused, so it takes no time.

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
        Ok::<_, Infallible>(format!("the answer to {query}"))
    });

    // The layers are what the service is built from, and their handles are what an operator gets:
    // an admin endpoint, a signal, a flag that is read from somewhere.
    let breaker = CircuitBreakerLayer::builder().name("database").build()?;
    let bulkhead = BulkheadLayer::builder().name("database").max_concurrent(10).build()?;
    let (switch, load) = (breaker.handle(), bulkhead.handle());
    let stack = Stack::new().bulkhead(bulkhead).circuit_breaker(breaker).service(database);

    // Whoever wants to know of the switch being thrown can wait for it.
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

    println!("three queries are under way when the operator throws the switch");
    let under_way: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .map(|query| tokio::spawn(stack.clone().oneshot(query)))
        .collect();
    sleep(Duration::from_millis(100)).await;
    switch.force_open();

    match stack.clone().oneshot("d").await {
        Err(Error::Rejected(Rejection::CircuitOpen(rejection))) => {
            println!("a new query: {rejection}")
        }
        other => return Err(format!("a query got through to a drained database: {other:?}").into()),
    }
    for query in under_way {
        println!("a query of before: {}", query.await??);
    }
    if load.in_flight() != 0 {
        return Err("the database is still in use".into());
    }

    println!("nothing is under way: maintenance, for ten minutes");
    sleep(Duration::from_secs(600)).await;
    // No probe has gone out meanwhile: what a hand opened, only a hand closes.
    if switch.state() != State::ForcedOpen {
        return Err("the breaker did not wait for the operator".into());
    }

    switch.reset();
    println!("the operator puts the database back: {}", stack.oneshot("e").await?);
    let seen = timeout(Duration::from_secs(1), dashboard).await??;
    if seen != [State::ForcedOpen, State::Closed] {
        return Err(format!("the dashboard saw {seen:?}").into());
    }
    Ok(())
}
