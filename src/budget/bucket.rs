//! The balance of a budget, and what changes it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::time::Instant;

use super::refill::{Refill, TOKEN};
use crate::{
    Fault, Outcome,
    call::{
        account::{Account, End, How, Stamp},
        admission::{Admission, Ledger},
        patience::Patience,
    },
};

/// The balance of a budget, shared by its clones.
pub(crate) struct Bucket {
    pub(super) balance: AtomicU64,
    pub(super) most: u64,
    pub(super) rule: Rule,
    /// `None` for a throttle, and for a budget without a floor.
    pub(super) refill: Option<Refill>,
    /// The estimate of a throttle of how long responses take.
    pub(super) patience: Patience,
    /// The instant from which the patience counts.
    pub(super) origin: Instant,
}

/// The amounts that change the balance, in units.
#[derive(Clone, Copy)]
pub(super) struct Rule {
    /// The amount that each call pays in.
    pub(super) deposit: u64,
    /// The amount that each retry takes out.
    pub(super) price: u64,
    /// A retry needs a balance of more than this amount.
    pub(super) above: u64,
    /// The amount that each success pays in.
    pub(super) reward: u64,
    /// The amount that each failure takes out.
    pub(super) penalty: u64,
}

impl Rule {
    #[inline]
    pub(super) fn is_throttle(self) -> bool {
        self.penalty > 0
    }
}

/// Converts a share of a token to units.
///
/// It rounds down, because retries must never exceed the share that was given.
pub(super) fn units(ratio: f64) -> u64 {
    (ratio * TOKEN as f64) as u64
}

impl Bucket {
    /// Returns the number of tokens left.
    pub(crate) fn tokens(&self) -> f64 {
        self.balance.load(Ordering::Relaxed) as f64 / TOKEN as f64
    }

    /// Returns the share of the tokens that is left. It is zero if there can be none.
    pub(crate) fn share_left(&self) -> f64 {
        self.tokens() / (self.most as f64 / TOKEN as f64).max(f64::MIN_POSITIVE)
    }

    #[inline]
    pub(super) fn observe(&self, outcome: Outcome) {
        if self.rule.is_throttle() {
            match outcome {
                // A request in progress pays when it is retried. Otherwise a client that sends a
                // request twice would stop the retries of all others.
                outcome if outcome.is_response() => self.pay_in(self.rule.reward),
                Outcome::Success | Outcome::Ignored => {}
                Outcome::Failure(_) => self.failed(),
            }
        }
    }

    /// Takes out the price of a retry. Returns `false` if the balance is too low.
    pub(super) fn take_out(&self) -> bool {
        let Rule { above, price, .. } = self.rule;
        let taken = |balance: u64| if balance > above { balance.checked_sub(price) } else { None };
        match self.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken) {
            Ok(before) => {
                if let Some(refill) = self.refill.as_ref().filter(|_| before - price < TOKEN) {
                    refill.begin();
                }
                true
            }
            Err(_) => false,
        }
    }

    /// Pays in for the time that the balance was empty. Returns `true` if it has done so.
    #[cold]
    pub(super) fn refill(&self) -> bool {
        let Some(refill) = &self.refill else { return false };
        let amount = refill.due();
        self.pay_in_up_to(refill.most(), amount);
        amount > 0
    }

    pub(super) fn failed(&self) {
        let taken = |balance: u64| Some(balance.saturating_sub(self.rule.penalty));
        let _ = self.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken);
    }

    #[inline]
    pub(super) fn pay_in(&self, amount: u64) {
        // The bucket of a healthy service is full. This case costs one load.
        if self.balance.load(Ordering::Relaxed) < self.most {
            self.pay_in_up_to(self.most, amount);
        }
    }

    fn pay_in_up_to(&self, most: u64, amount: u64) {
        let paid =
            |balance: u64| (balance < most).then(|| balance.saturating_add(amount).min(most));
        let before = self.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, paid);
        let is_whole = |before: u64| before < TOKEN && before.saturating_add(amount) >= TOKEN;
        if let Some(refill) = self.refill.as_ref().filter(|_| before.is_ok_and(is_whole)) {
            refill.end();
        }
    }
}

/// Counts an attempt when its response ends, unless the caller's deadline cut it short.
///
/// The response was heard at its head.
impl Account for Bucket {
    fn settle(&self, stamp: Stamp, end: &End) {
        let How::Complete(outcome, _) = end.how else { return };
        let hurried = outcome == Outcome::Failure(Fault::TimedOut) && stamp.was_cut_by_caller(end);
        if !hurried {
            self.observe(outcome);
        }
    }
}

/// The token taken out for one retry.
pub(crate) type Withdrawal = Admission<Arc<Bucket>>;

impl Ledger for Arc<Bucket> {
    type Stamp = ();

    fn abandoned(&self, (): (), _panicked: bool) {
        self.pay_in(self.rule.price);
    }
}
