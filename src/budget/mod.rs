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
/// let budget = Budget::builder().ratio(0.1).floor(10).build()?;
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

/// The example of proposal A6, which has no default.
const MAX_TOKENS: u32 = 10;
const TOKEN_RATIO: f64 = 0.1;

/// Returns a share of a token in units. Rounded down, because a bound must hold for the ratio as it
/// was given.
fn units(ratio: f64) -> u64 {
    (ratio * TOKEN as f64) as u64
}

/// One retry in ten calls: the share that Google's SRE book recommends.
const RATIO: f64 = 0.1;

/// Ten retries to begin with, so that a client with few calls may retry at all.
const FLOOR: u32 = 10;

impl Default for Budget {
    fn default() -> Self {
        Self::new()
    }
}

impl Budget {
    /// Creates a budget of one retry in ten calls, and ten to begin with.
    pub fn new() -> Self {
        Self::from_units(units(RATIO), FLOOR)
    }

    /// Returns a builder for a budget that is a share of the calls.
    pub fn builder() -> BudgetBuilder {
        BudgetBuilder { ratio: RATIO, floor: FLOOR }
    }

    fn from_units(deposit: u64, floor: u32) -> Self {
        let floor_units = u64::from(floor) * TOKEN;
        // Without room for one token and one deposit, a small floor would forbid every retry.
        let most = if deposit == 0 { floor_units } else { floor_units.max(TOKEN + deposit) };
        let balance = AtomicU64::new(floor_units);
        let rule = Rule { deposit, price: TOKEN, above: 0, reward: 0, penalty: 0 };
        Self { bucket: Arc::new(Bucket { balance, most, rule }) }
    }

    /// Returns a builder for retry throttling as gRPC has it (proposal A6).
    ///
    /// Each failure of an attempt takes out a token, each success pays in a share of one, and
    /// nothing is retried unless more than half of the tokens are left. Failures count even if they
    /// could not be retried, and even if the server forbids a retry. A request that is [in
    /// progress](Fault::InProgress) takes out a token only when it is sent again.
    ///
    /// A throttle reacts to failures and not to calls. While few calls fail it does not limit
    /// retries at all, and when many do it stops them all for a while. [`builder`](Self::builder)
    /// bounds them at any time.
    ///
    /// ```
    /// use buttress::retry::Budget;
    ///
    /// // As `"retryThrottling": { "maxTokens": 10, "tokenRatio": 0.1 }` in a service config.
    /// let throttle = Budget::throttle().max_tokens(10).token_ratio(0.1).build()?;
    /// # let _ = throttle;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn throttle() -> ThrottleBuilder {
        ThrottleBuilder { max_tokens: MAX_TOKENS, token_ratio: TOKEN_RATIO }
    }

    fn from_rule(max_tokens: u32, reward: u64) -> Self {
        let most = u64::from(max_tokens) * TOKEN;
        let rule = Rule { deposit: 0, price: 0, above: most / 2, reward, penalty: TOKEN };
        Self { bucket: Arc::new(Bucket { balance: AtomicU64::new(most), most, rule }) }
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

/// Settings of a [`Budget`] that is a share of the calls.
#[derive(Clone, Copy, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct BudgetBuilder {
    ratio: f64,
    floor: u32,
}

impl BudgetBuilder {
    /// Sets how many retries each call pays for.
    ///
    /// Default: `0.1`, the share that Google's SRE book recommends.
    ///
    /// It is 0, or between 0.000001 and 10, in steps of a millionth. Zero pays for none: the floor
    /// is then all there will ever be.
    pub fn ratio(mut self, ratio: f64) -> Self {
        self.ratio = ratio;
        self
    }

    /// Sets how many retries the budget begins with, which is also the most that it saves up.
    ///
    /// Default: `10`.
    ///
    /// A client with few calls can retry only from this. Zero is valid: then calls must come first.
    pub fn floor(mut self, floor: u32) -> Self {
        self.floor = floor;
        self
    }

    /// Checks the settings and builds the budget.
    ///
    /// # Errors
    ///
    /// If the ratio is out of its range.
    pub fn build(self) -> Result<Budget, ConfigError> {
        let Self { ratio, floor } = self;
        if !(0.0..=10.0).contains(&ratio) || (units(ratio) == 0 && ratio > 0.0) {
            let rule = "it must be 0, or a number between 0.000001 and 10";
            return Err(ConfigError::new("ratio", ratio, rule));
        }
        Ok(Budget::from_units(units(ratio), floor))
    }
}

/// Settings of a [throttle](Budget::throttle), by the names that a gRPC service config has for
/// them.
#[derive(Clone, Copy, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct ThrottleBuilder {
    max_tokens: u32,
    token_ratio: f64,
}

impl ThrottleBuilder {
    /// Sets the number of tokens that the throttle begins with, and has at most.
    ///
    /// Default: `10`.
    ///
    /// It must be 1 to 1,000. Half of them may be taken out by failures before retries stop.
    pub fn max_tokens(mut self, tokens: u32) -> Self {
        self.max_tokens = tokens;
        self
    }

    /// Sets what share of a token each success pays in.
    ///
    /// Default: `0.1`.
    ///
    /// It must be between 0.000001 and 1,000, in steps of a millionth. With less, a throttle would
    /// never recover.
    pub fn token_ratio(mut self, ratio: f64) -> Self {
        self.token_ratio = ratio;
        self
    }

    /// Checks the settings and builds the throttle.
    ///
    /// # Errors
    ///
    /// If one of them is out of its range.
    pub fn build(self) -> Result<Budget, ConfigError> {
        let Self { max_tokens, token_ratio } = self;
        if !(1..=1_000).contains(&max_tokens) {
            return Err(ConfigError::new("max_tokens", max_tokens, "it must be 1 to 1000"));
        }
        if !(0.0..=1_000.0).contains(&token_ratio) || units(token_ratio) == 0 {
            let rule = "it must be a number between 0.000001 and 1000";
            return Err(ConfigError::new("token_ratio", token_ratio, rule));
        }
        Ok(Budget::from_rule(max_tokens, units(token_ratio)))
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
