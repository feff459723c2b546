//! An error enum of one's own through the whole stack: no wrapper, no box, one `match` at the end.
//!
//! Run it with `cargo run --example custom_error`. Its clock is paused, so it takes no time.

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

/// Everything that can go wrong with a payment, in the words of this program.
#[derive(Debug, thiserror::Error)]
enum PaymentError {
    #[error("the card was declined")]
    Declined,
    #[error("the connection to the bank was lost")]
    ConnectionLost,
    #[error("the bank gave no answer")]
    NoAnswer(#[source] Rejection),
}

/// This is all that the layers need in order to speak in those words too.
impl CarryRejection for PaymentError {
    fn from_rejection(rejection: Rejection) -> Self {
        Self::NoAnswer(rejection)
    }

    fn rejection(&self) -> Option<&Rejection> {
        match self {
            Self::NoAnswer(rejection) => Some(rejection),
            Self::Declined | Self::ConnectionLost => None,
        }
    }
}

/// What a server of this program would answer: the one place that looks at every kind of error.
fn answer(result: Result<Receipt, PaymentError>) -> String {
    match result {
        Ok(Receipt(number)) => format!("200 receipt {number}"),
        Err(PaymentError::Declined) => "402 declined".to_owned(),
        Err(PaymentError::ConnectionLost) => "502 bank unreachable".to_owned(),
        // It was asked, and may have booked the payment.
        Err(PaymentError::NoAnswer(Rejection::TimedOut(_))) => "504 outcome unknown".to_owned(),
        Err(PaymentError::NoAnswer(rejection)) => match rejection.retry_after() {
            Some(wait) => format!("503 {}, come back in {:.0?}", rejection.kind(), wait),
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

    // The bank books a payment number once, however often it is sent, so a payment may be repeated.
    let stack = Stack::standard(ReplayClones)
        .circuit_breaker(
            CircuitBreakerLayer::builder().name("bank").consecutive_failures(6).build()?,
        )
        .classify_fn(|result: Result<&Receipt, &PaymentError>| match result {
            Ok(_) => Outcome::Success,
            // The bank is well, and would say the same again.
            Err(PaymentError::Declined) => Outcome::Failure(Fault::Permanent),
            Err(_) => Outcome::Failure(Fault::Transient),
        });
    // `layer` leaves the error type alone: a `PaymentError` goes in and a `PaymentError` comes out.
    let payments = stack.layer(service);

    let steps = [
        ("all is well", 0, Payment { number: 1, covered: true }, "200", 1),
        ("two broken connections", 2, Payment { number: 2, covered: true }, "200", 3),
        ("a card without cover", 0, Payment { number: 3, covered: false }, "402", 1),
        ("the line is cut", u32::MAX, Payment { number: 4, covered: true }, "502", 4),
        ("it is still cut", u32::MAX, Payment { number: 5, covered: true }, "502", 2),
        ("the breaker is open", u32::MAX, Payment { number: 6, covered: true }, "503", 0),
    ];
    for (what, broken, payment, expected, attempts) in steps {
        bank.breaks.store(broken, Ordering::Relaxed);
        bank.asked.store(0, Ordering::Relaxed);
        let answer = answer(payments.clone().oneshot(payment).await);
        let asked = bank.asked.load(Ordering::Relaxed);
        println!("{what:<24} the bank was asked {asked} x, the customer reads: {answer}");
        if !answer.starts_with(expected) || asked != attempts {
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

/// A bank on the other end of a bad line.
#[derive(Clone, Default)]
struct Bank {
    /// How many of the next connections break.
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
