//! How many retries a client may send: a share of its calls, however many of them fail.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    ConfigError, Fault, Outcome,
    call::{
        account::{Account, End, How, Stamp},
        admission::{Admission, Ledger},
        patience::{PATIENCE, was_cut_short},
    },
};

/// A token in the unit that the balance is kept in, fine enough for a ratio of one in a million.
const TOKEN: u64 = 1_000_000;

/// A budget of retries, shared by its clones.
///
/// A limit on the retries of one call does not bound a client: when everything fails, three retries
/// a call are four times the load. A budget does. Each call pays in a share of a token, each retry
/// takes out a whole one, and no more than the floor is ever saved up (one token and one deposit, if
/// the floor is less). So from the beginning, and after any idle time,
///
/// > retries <= ratio * calls + floor
///
/// The idea is Finagle's `RetryBudget`; the bucket without a clock is that of gRPC's retry throttling
/// (proposal A6) and of the AWS SDKs.
///
/// ```
/// use buttress::retry::Budget;
///
/// // Two stacks that call the same dependency share one budget.
/// let budget = Budget::new(0.1, 10)?;
/// let shared = budget.clone();
/// # let _ = shared;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Budget {
    bucket: Arc<Bucket>,
}

pub(crate) struct Bucket {
    balance: AtomicU64,
    most: u64,
    rule: Rule,
}

/// What moves the balance, in units.
#[derive(Clone, Copy)]
struct Rule {
    /// Paid in by each call.
    deposit: u64,
    /// Taken out by each retry.
    price: u64,
    /// No retry unless the balance is above it.
    above: u64,
    /// Paid in by each success.
    reward: u64,
    /// Taken out by each failure.
    penalty: u64,
}

impl Rule {
    #[inline]
    fn is_throttle(self) -> bool {
        self.penalty > 0
    }
}

impl Default for Budget {
    /// One retry in ten calls, and ten to begin with: the share that Google's SRE book recommends.
    fn default() -> Self {
        Self::from_units(TOKEN / 10, 10)
    }
}

impl Budget {
    /// A budget of `ratio` retries a call (0 to 10, in steps of a millionth), and `floor` more, which is also what it begins
    /// with.
    ///
    /// # Errors
    ///
    /// If the ratio is not a number between 0 and 10.
    pub fn new(ratio: f64, floor: u32) -> Result<Self, ConfigError> {
        if !(0.0..=10.0).contains(&ratio) {
            return Err(ConfigError::new("ratio", ratio, "it must be a number between 0 and 10"));
        }
        // Rounded down, for the bound above must hold for the ratio as it was given.
        Ok(Self::from_units((ratio * TOKEN as f64) as u64, floor))
    }

    fn from_units(deposit: u64, floor: u32) -> Self {
        let floor_units = u64::from(floor) * TOKEN;
        // Without room for one token and one deposit, a small floor would forbid every retry.
        let most = if deposit == 0 { floor_units } else { floor_units.max(TOKEN + deposit) };
        let balance = AtomicU64::new(floor_units);
        let rule = Rule { deposit, price: TOKEN, above: 0, reward: 0, penalty: 0 };
        Self { bucket: Arc::new(Bucket { balance, most, rule }) }
    }

    /// Retry throttling as gRPC has it (proposal A6): each failure of an attempt takes out a token,
    /// each success pays in `ratio` of one, and nothing is retried unless more than half of
    /// `max_tokens` are left. Failures count whether or not they could be retried, also those with
    /// which a server forbids it; but a request that is [in progress](Fault::InProgress) takes out a token
    /// only when it is sent again.
    ///
    /// It reacts to failures and not to calls: while few calls fail it does not limit retries at all,
    /// and when many do it stops them all for a while. [`new`](Self::new) bounds them at any time.
    ///
    /// # Errors
    ///
    /// If the tokens are not 1 to 1,000, or the ratio is not a number above 0 and at most 1,000.
    pub fn throttle(max_tokens: u32, ratio: f64) -> Result<Self, ConfigError> {
        if !(1..=1_000).contains(&max_tokens) {
            return Err(ConfigError::new("max_tokens", max_tokens, "it must be 1 to 1000"));
        }
        if !(ratio > 0.0 && ratio <= 1_000.0) {
            let rule = "it must be a number above 0 and at most 1000";
            return Err(ConfigError::new("ratio", ratio, rule));
        }
        let most = u64::from(max_tokens) * TOKEN;
        // Rounded down to nothing, it would never recover.
        let reward = ((ratio * TOKEN as f64) as u64).max(1);
        let rule = Rule { deposit: 0, price: 0, above: most / 2, reward, penalty: TOKEN };
        Ok(Self { bucket: Arc::new(Bucket { balance: AtomicU64::new(most), most, rule }) })
    }

    /// How many retries could be sent now.
    pub fn balance(&self) -> f64 {
        self.bucket.balance.load(Ordering::Relaxed) as f64 / TOKEN as f64
    }

    /// Retries that each call pays for; of a [throttle](Self::throttle), each success.
    pub fn ratio(&self) -> f64 {
        self.bucket.rule.deposit.max(self.bucket.rule.reward) as f64 / TOKEN as f64
    }

    /// Pays in for a call.
    #[inline]
    pub(crate) fn deposit(&self) {
        self.bucket.pay_in(self.bucket.rule.deposit);
    }

    /// The account of attempts whose response goes on after its head.
    pub(crate) fn account(&self) -> Arc<dyn Account> {
        Arc::clone(&self.bucket) as _
    }

    /// Whether the outcome of attempts moves the balance.
    #[inline]
    pub(crate) fn is_throttle(&self) -> bool {
        self.bucket.rule.is_throttle()
    }

    /// Counts how an attempt ended.
    #[inline]
    pub(crate) fn observe(&self, outcome: Outcome) {
        self.bucket.observe(outcome);
    }

    /// Counts a failure.
    pub(crate) fn failed(&self) {
        self.bucket.failed();
    }

    /// Takes out a token for a retry; `None` if there is none. It is paid back if the retry is never
    /// sent.
    pub(crate) fn withdraw(&self) -> Option<Withdrawal> {
        let rule = self.bucket.rule;
        let taken = |balance: u64| {
            if balance > rule.above { balance.checked_sub(rule.price) } else { None }
        };
        self.bucket
            .balance
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken)
            .ok()
            .map(|_| Admission::new(Arc::clone(&self.bucket), ()))
    }
}

impl Bucket {
    #[inline]
    fn observe(&self, outcome: Outcome) {
        if self.rule.is_throttle() {
            match outcome {
                Outcome::Success => self.pay_in(self.rule.reward),
                // What is in progress is paid for when it is asked for again: else whoever sends a request
                // twice would stop the retries of others.
                Outcome::Failure(Fault::Permanent | Fault::InProgress { .. })
                | Outcome::Ignored => {}
                Outcome::Failure(_) => self.failed(),
            }
        }
    }

    fn failed(&self) {
        let taken = |balance: u64| Some(balance.saturating_sub(self.rule.penalty));
        let _ = self.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken);
    }

    #[inline]
    fn pay_in(&self, amount: u64) {
        // A full bucket is the healthy case, and costs one load.
        if self.balance.load(Ordering::Relaxed) >= self.most {
            return;
        }
        let paid = |balance: u64| Some(balance.saturating_add(amount).min(self.most));
        let _ = self.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, paid);
    }
}

/// Moved by how an attempt ended, unless that was cut short by its caller.
impl Account for Bucket {
    fn settle(&self, stamp: Stamp, end: &End) {
        let How::Complete(outcome) = end.how else { return };
        let hurried = outcome == Outcome::Failure(Fault::TimedOut)
            && end.waited < PATIENCE
            && was_cut_short(stamp.began(end), stamp.deadline(end));
        if !hurried {
            self.observe(outcome);
        }
    }
}

/// A token that was taken out for one retry.
pub(crate) type Withdrawal = Admission<Arc<Bucket>>;

impl Ledger for Arc<Bucket> {
    type Stamp = ();

    fn abandoned(&self, (): (), _panicked: bool) {
        self.pay_in(self.rule.price);
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("ratio", &self.ratio())
            .field("most", &(self.bucket.most as f64 / TOKEN as f64))
            .field("balance", &self.balance())
            .finish()
    }
}

#[cfg(test)]
mod tests;
