//! Passes your own error enum through a whole stack, without a wrapper or a box.
//!
//! ```sh
//! cargo run --example custom_error
//! ```
//!
//! Tokio's clock is paused, so the example ends at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use buttress::{
    BoxError, CarryRejection, Fault, Outcome, Rejection, Stack,
    circuit_breaker::CircuitBreakerLayer, retry::ReplayClones,
};
use tower::{Layer, ServiceExt, service_fn};

/// The errors of a payment.
#[derive(Debug, thiserror::Error)]
enum PaymentError {
    #[error("the card was declined")]
    Declined,
    #[error("the connection to the bank was lost")]
    ConnectionLost,
    #[error("the call to the bank was rejected")]
    Rejected(#[source] Rejection),
}

/// The two conversions that the layers need.
impl CarryRejection for PaymentError {
    fn from_rejection(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }

    fn rejection(&self) -> Option<&Rejection> {
        match self {
            Self::Rejected(rejection) => Some(rejection),
            Self::Declined | Self::ConnectionLost => None,
        }
    }
}

/// Returns the response of a server, with one `match` over every kind of error.
fn respond(result: Result<Receipt, PaymentError>) -> String {
    match result {
        Ok(Receipt(number)) => format!("200 receipt {number}"),
        Err(PaymentError::Declined) => "402 declined".to_owned(),
        Err(PaymentError::ConnectionLost) => "502 bank unreachable".to_owned(),
        // The bank received the request and may have booked the payment.
        Err(PaymentError::Rejected(Rejection::TimedOut(_))) => "504 outcome unknown".to_owned(),
        Err(PaymentError::Rejected(rejection)) => match rejection.retry_after() {
            Some(wait) => format!("503 {}, retry in {:.0?}", rejection.kind(), wait),
            None => format!("503 {}", rejection.kind()),
        },
    }
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), BoxError> {
    let bank = Bank::default();
    let service = service_fn({
        let bank = bank.clone();
        move |payment| bank.clone().pay(payment)
    });

    // The bank books each payment number once, so a payment is safe to repeat.
    let stack = Stack::standard(ReplayClones)
        .circuit_breaker(
            CircuitBreakerLayer::builder().name("bank").consecutive_failures(6).build()?,
        )
        .classify_fn(|result: Result<&Receipt, &PaymentError>| match result {
            Ok(_) => Outcome::Success,
            // The bank works, and would decline again.
            Err(PaymentError::Declined) => Outcome::Failure(Fault::Permanent),
            Err(_) => Outcome::Failure(Fault::Transient),
        });
    // `layer` keeps the error type: the service fails with `PaymentError`, and so does the stack.
    let payments = stack.layer(service);

    let steps = [
        ("no failure", 0, Payment { number: 1, covered: true }, "200", 1),
        ("two broken connections", 2, Payment { number: 2, covered: true }, "200", 3),
        ("a declined card", 0, Payment { number: 3, covered: false }, "402", 1),
        ("the connection is down", u32::MAX, Payment { number: 4, covered: true }, "502", 4),
        ("it is still down", u32::MAX, Payment { number: 5, covered: true }, "502", 2),
        ("the circuit is open", u32::MAX, Payment { number: 6, covered: true }, "503", 0),
    ];
    for (what, broken, payment, expected, attempts) in steps {
        bank.breaks.store(broken, Ordering::Relaxed);
        bank.asked.store(0, Ordering::Relaxed);
        let response = respond(payments.clone().oneshot(payment).await);
        let asked = bank.asked.load(Ordering::Relaxed);
        println!("{what:<24} attempts: {asked}, response: {response}");
        if !response.starts_with(expected) || asked != attempts {
            return Err(format!("expected {expected} after {attempts} attempts").into());
        }
    }
    Ok(())
}

#[derive(Clone)]
struct Payment {
    number: u32,
    covered: bool,
}

struct Receipt(u32);

/// A bank behind an unreliable connection.
#[derive(Clone, Default)]
struct Bank {
    /// The number of further attempts whose connection breaks.
    breaks: Arc<AtomicU32>,
    asked: Arc<AtomicU32>,
}

impl Bank {
    async fn pay(self, payment: Payment) -> Result<Receipt, PaymentError> {
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.asked.fetch_add(1, Ordering::Relaxed);
        let breaks = self.breaks.load(Ordering::Relaxed);
        if breaks > 0 {
            self.breaks.store(breaks - 1, Ordering::Relaxed);
            return Err(PaymentError::ConnectionLost);
        }
        if payment.covered { Ok(Receipt(payment.number)) } else { Err(PaymentError::Declined) }
    }
}
