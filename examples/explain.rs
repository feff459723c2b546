//! What a stack says about itself: the standard one, and one whose settings contradict each other.
//!
//! Run it with `cargo run --example explain`.

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
        return Err("the standard stack should have nothing to warn of".into());
    }

    // Every line of this looks sensible by itself.
    let doubtful = Stack::new()
        // Two seconds in all, of which the first attempt may use every one.
        .total_timeout(Duration::from_secs(2))
        .attempt_timeout(Duration::from_secs(2))
        // Six times the traffic, just when the other side cannot bear what it has.
        .retry(
            RetryLayer::builder(ReplayClones)
                .retries(5)
                .backoff(Backoff::constant(Duration::from_secs(1)).build()?)
                .without_budget()
                .build()?,
        )
        // When a timeout is reported, the calls it should be weighed against are forgotten.
        .circuit_breaker(
            CircuitBreakerLayer::builder().time_window(Duration::from_secs(1)).build()?,
        )
        // An open breaker that answers at once looks like the fastest endpoint of all.
        .under_balancer()
        .explain();
    println!("A doubtful stack:\n\n{doubtful}");
    if doubtful.warnings().len() < 4 {
        return Err("the doubtful stack should have been told more".into());
    }
    Ok(())
}
