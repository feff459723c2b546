//! Prints the report of the standard stack, and of a stack whose settings contradict each other.
//!
//! ```sh
//! cargo run --example explain
//! ```

use std::time::Duration;

use buttress::{
    BoxError, Stack,
    circuit_breaker::CircuitBreakerLayer,
    retry::{Backoff, ReplayClones, RetryLayer},
};

fn main() -> Result<(), BoxError> {
    let standard = Stack::standard(ReplayClones).explain();
    println!("The standard stack:\n\n{standard}\n");
    if !standard.warnings().is_empty() {
        return Err("the standard stack should have no warnings".into());
    }

    // Each setting looks sensible by itself.
    let doubtful = Stack::new()
        // The first attempt may use all the time of the call.
        .total_timeout(Duration::from_secs(2))
        .attempt_timeout(Duration::from_secs(2))
        // Up to six times the traffic, at the moment when the dependency is overloaded.
        .retry(
            RetryLayer::builder(ReplayClones)
                .retries(5)
                .backoff(Backoff::constant(Duration::from_secs(1)).build()?)
                .without_budget()
                .build()?,
        )
        // An attempt may take 2 s. When it times out, the calls before it have left this window.
        .circuit_breaker(
            CircuitBreakerLayer::builder().time_window(Duration::from_secs(1)).build()?,
        )
        // An open breaker that rejects at once looks like the fastest endpoint to a balancer.
        .under_balancer()
        .explain();
    println!("A doubtful stack:\n\n{doubtful}");
    if doubtful.warnings().len() < 4 {
        return Err("the doubtful stack should have at least four warnings".into());
    }
    Ok(())
}
