//! tower 0.5: `Timeout`, `Retry`, `ConcurrencyLimit`.
//!
//! It has no breaker. Its `ConcurrencyLimit` is used instead.
//!
//! Its layers wrap the same service as buttress's layers, because a layer also moves the error,
//! whose size counts.

use std::sync::Arc;
use std::time::Duration;

use tower::limit::ConcurrencyLimit;
use tower::retry::Policy;
use tower::retry::Retry;
use tower::retry::backoff::{Backoff, ExponentialBackoff, ExponentialBackoffMaker, MakeBackoff};
use tower::retry::budget::{Budget, TpsBudget};
use tower::timeout::Timeout;
use tower::util::rng::HasherRng;

use buttress::Error;

use super::{CONCURRENT, LIMIT};
use crate::backend::{Request, Subject, Unavailable};
use crate::ours::Inner;

/// The policy of tower's budget documentation, with its backoff and a maximum number of tries.
///
/// It deposits on success. On a failure it withdraws, and waits.
#[derive(Clone)]
struct BudgetedBackoff {
    budget: Arc<TpsBudget>,
    backoff: ExponentialBackoff,
    retries_left: u32,
}

impl Policy<Request, u64, Error<Unavailable>> for BudgetedBackoff {
    type Future = <ExponentialBackoff as Backoff>::Future;

    fn retry(
        &mut self,
        _: &mut Request,
        result: &mut Result<u64, Error<Unavailable>>,
    ) -> Option<Self::Future> {
        if result.is_ok() {
            self.budget.deposit();
            return None;
        }
        if self.retries_left == 0 || !self.budget.withdraw() {
            return None;
        }
        self.retries_left -= 1;
        Some(self.backoff.next_backoff())
    }

    fn clone_request(&mut self, request: &Request) -> Option<Request> {
        Some(*request)
    }
}

pub fn timeout() -> impl Subject {
    Timeout::new(Inner::new(), LIMIT)
}

pub fn retry() -> impl Subject {
    let mut maker = ExponentialBackoffMaker::new(
        Duration::from_millis(50),
        Duration::from_secs(1),
        0.99,
        HasherRng::default(),
    )
    .expect("a valid backoff");
    let policy = BudgetedBackoff {
        budget: Arc::new(TpsBudget::new(Duration::from_secs(10), 10, 0.1)),
        backoff: maker.make_backoff(),
        retries_left: 3,
    };
    Retry::new(policy, Inner::new())
}

pub fn concurrency_limit() -> impl Subject {
    ConcurrencyLimit::new(Inner::new(), CONCURRENT)
}
