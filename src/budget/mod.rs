//! Budgets of retries, which limit a client's retries to a share of its calls.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::time::Instant;

pub(crate) use self::bucket::{Bucket, Withdrawal};
use self::{
    bucket::{Rule, units},
    refill::{Refill, TOKEN},
};
use crate::{
    ConfigError, Outcome,
    call::{
        account::Account,
        admission::Admission,
        patience::{self, Cut, Patience},
    },
};

mod bucket;
mod refill;

/// A budget of retries, shared by its clones.
///
/// A limit on the retries of one call does not limit the load of a client. When every call fails,
/// three retries per call multiply the load by four. A budget limits the load of all calls
/// together. Each call pays in a share of a token, and each retry takes out a whole token. The
/// balance never exceeds the floor, or one token plus one deposit if that is more.
///
/// A call under several retries that share a budget pays in once. It pays in again if a retry with
/// another budget is between them, or another task, such as a shared call of a
/// [cache](crate::cache).
///
/// A client with few calls would never pay in enough for the retries that it has used. Therefore a
/// budget with less than one token left also regains one token a minute, up to the floor. From the
/// start, and after any idle time:
///
/// > retries <= ratio * calls + floor + minutes
///
/// Time with at least one token left pays in nothing, and the budget reads no clock meanwhile.
///
/// If the floor is less than one token plus one deposit, the balance can grow to that amount, and
/// it replaces the floor in the bound after an idle time.
///
/// A request that the service has provably not processed is resent at once. This resend is outside
/// the budget. It neither needs a token nor takes one out, because the service did no work for the
/// request before. See [unprocessed requests](crate::retry#unprocessed-requests).
///
/// The idea is from Finagle's `RetryBudget`.
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

/// The values of the example in proposal A6, which defines no defaults.
const MAX_TOKENS: u32 = 10;
const TOKEN_RATIO: f64 = 0.1;

/// One retry in ten calls, the share that Google's SRE book recommends.
const RATIO: f64 = 0.1;

/// Ten retries at the start, because a client with few calls could not retry otherwise.
const FLOOR: u32 = 10;

impl Default for Budget {
    fn default() -> Self {
        Self::new()
    }
}

impl Budget {
    /// Creates a budget of ten retries at the start, and one more for every ten calls.
    pub fn new() -> Self {
        Self::from_units(units(RATIO), FLOOR)
    }

    /// Returns a builder for a budget that is a share of the calls.
    pub fn builder() -> BudgetBuilder {
        BudgetBuilder { ratio: RATIO, floor: FLOOR }
    }

    fn from_units(deposit: u64, floor: u32) -> Self {
        let floor_units = u64::from(floor) * TOKEN;
        // Without room for one token and one deposit, a small floor would prevent every retry.
        let most = if deposit == 0 { floor_units } else { floor_units.max(TOKEN + deposit) };
        let rule = Rule { deposit, price: TOKEN, above: 0, reward: 0, penalty: 0 };
        let refill = (floor > 0).then(|| Refill::up_to(floor_units));
        Self::from_bucket(floor_units, most, rule, refill)
    }

    /// Returns a builder for retry throttling as gRPC defines it (proposal A6).
    ///
    /// Each failed attempt takes out a token, and each success pays in a share of a token. A call
    /// is retried only while more than half of the tokens are left. A failure counts even if it
    /// could not be retried, and even if the server forbids a retry.
    ///
    /// A response that says that the request is wrong ([`Permanent`](crate::Fault::Permanent)) or
    /// in progress ([`InProgress`](crate::Fault::InProgress)) comes from a healthy server, and pays
    /// in like a success. Proposal A6 names only calls with the status `OK`. The retries of a
    /// client whose lookups mostly find nothing would then stop after a few failures and never
    /// begin again. A permanent failure takes out a token if the server forbids a retry. A request
    /// in progress takes one out when it is retried.
    ///
    /// A timeout that the server reports close to a deadline of the caller takes out a token under
    /// the same conditions as a circuit breaker counts [a call that is
    /// cut](crate::circuit_breaker#calls-that-are-cut). The silence is 10 s. A request that is
    /// [given back](crate::circuit_breaker#requests-that-are-given-back) takes out a token in
    /// silence, and when it is retried after its free resend.
    ///
    /// A throttle reacts to failures, not to calls. While few calls fail, it does not limit
    /// retries at all. When many calls fail, it stops all retries until enough calls have
    /// succeeded. A budget from [`builder`](Self::builder) limits retries at all times.
    ///
    /// ```
    /// use buttress::retry::Budget;
    ///
    /// // The same as this in a service config:
    /// // "retryThrottling": { "maxTokens": 10, "tokenRatio": 0.1 }
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
        Self::from_bucket(most, most, rule, None)
    }

    fn from_bucket(balance: u64, most: u64, rule: Rule, refill: Option<Refill>) -> Self {
        let (balance, patience) = (AtomicU64::new(balance), Patience::default());
        let origin = Instant::now();
        Self { bucket: Arc::new(Bucket { balance, most, rule, refill, patience, origin }) }
    }

    /// Returns a budget with the same rule and its initial balance.
    pub(crate) fn fresh(&self) -> Self {
        let Bucket { most, rule, refill, .. } = &*self.bucket;
        let floor = refill.as_ref().map_or(0, Refill::most);
        let balance = if rule.is_throttle() { *most } else { floor };
        Self::from_bucket(balance, *most, *rule, refill.as_ref().map(|_| Refill::up_to(floor)))
    }

    /// Returns the number of tokens left.
    ///
    /// Each token pays for one retry. A [throttle](Self::throttle) instead allows every retry
    /// while more than half of its tokens are left. What a budget regains with time is added when a
    /// retry finds less than one token.
    pub fn balance(&self) -> f64 {
        self.bucket.tokens()
    }

    pub(crate) fn bucket(&self) -> &Arc<Bucket> {
        &self.bucket
    }

    /// Returns the share of a token that each call pays in.
    ///
    /// For a [throttle](Self::throttle), returns the share that each success pays in.
    pub fn ratio(&self) -> f64 {
        self.bucket.rule.deposit.max(self.bucket.rule.reward) as f64 / TOKEN as f64
    }

    /// Pays in for one call.
    #[inline]
    pub(crate) fn deposit(&self) {
        self.bucket.pay_in(self.bucket.rule.deposit);
    }

    /// Returns the account that is settled when a streaming response ends.
    pub(crate) fn account(&self) -> Arc<dyn Account> {
        Arc::clone(&self.bucket) as _
    }

    /// Returns whether the outcome of an attempt changes the balance.
    #[inline]
    pub(crate) fn is_throttle(&self) -> bool {
        self.bucket.rule.is_throttle()
    }

    /// Counts the outcome of an attempt.
    #[inline]
    pub(crate) fn observe(&self, outcome: Outcome) {
        self.bucket.observe(outcome);
    }

    /// Notes a response, and how long it took to its head if that is known.
    pub(crate) fn heard(&self, took: Option<Duration>) {
        self.bucket.patience.heard();
        if let Some(took) = took {
            self.bucket.patience.learn(took);
        }
    }

    /// Notes an attempt that ended because its caller's time was over. Returns `true` if that
    /// counts as a failure.
    pub(crate) fn counts_cut(
        &self,
        ran: Duration,
        now: Instant,
        own_limit: Option<Duration>,
    ) -> bool {
        let cut = Cut { ran, now: now.saturating_duration_since(self.bucket.origin) };
        let floor = own_limit.unwrap_or(patience::FLOOR);
        let in_silence = self.bucket.patience.cut(cut, patience::SILENCE, floor);
        in_silence || own_limit.is_some_and(|limit| ran >= patience::whole(limit))
    }

    /// Notes that a request was given back. Counts it as a failure in silence.
    pub(crate) fn given_back(&self, began: Option<Instant>) {
        let now = Instant::now();
        let ran = began.map_or(Duration::ZERO, |began| now.saturating_duration_since(began));
        let cut = Cut { ran, now: now.saturating_duration_since(self.bucket.origin) };
        if self.bucket.patience.given_back(cut, patience::SILENCE) {
            self.failed();
        }
    }

    /// Counts a failure.
    pub(crate) fn failed(&self) {
        self.bucket.failed();
    }

    /// Takes out a token for a retry, or returns `None` if there is none.
    ///
    /// The token is paid back if the retry is never sent.
    pub(crate) fn withdraw(&self) -> Option<Withdrawal> {
        let bucket = &self.bucket;
        let taken = bucket.take_out() || (bucket.refill() && bucket.take_out());
        taken.then(|| Admission::new(Arc::clone(bucket), ()))
    }
}

/// A builder for a [`Budget`] that is a share of the calls.
///
/// [`build`](Self::build) returns a [`ConfigError`] for an invalid setting.
#[derive(Clone, Copy, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct BudgetBuilder {
    ratio: f64,
    floor: u32,
}

impl BudgetBuilder {
    /// Sets the share of a retry that each call pays in.
    ///
    /// Default: `0.1`, which is one retry in ten calls. Google's SRE book recommends this share.
    ///
    /// The ratio must be 0, or between 0.000001 and 10. It is rounded down to a millionth. With
    /// zero, calls pay in nothing, and only the floor and what it regains with time are left.
    pub fn ratio(mut self, ratio: f64) -> Self {
        self.ratio = ratio;
        self
    }

    /// Sets the number of retries at the start, which is also the maximum balance.
    ///
    /// Default: `10`.
    ///
    /// A client with few calls pays in too little to retry without it. For such a client, a budget
    /// with no retry left regains one a minute, up to this number. With zero, calls must pay in
    /// before the first retry, and time pays in nothing. Any value is valid.
    ///
    /// If calls pay in anything, the maximum balance is at least one token plus one deposit. A
    /// smaller maximum would prevent every retry.
    pub fn floor(mut self, floor: u32) -> Self {
        self.floor = floor;
        self
    }

    /// Validates the settings and returns the budget.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] if the ratio is out of range.
    pub fn build(self) -> Result<Budget, ConfigError> {
        let Self { ratio, floor } = self;
        if !(0.0..=10.0).contains(&ratio) || (units(ratio) == 0 && ratio > 0.0) {
            let rule = "it must be 0, or a number between 0.000001 and 10";
            return Err(ConfigError::new("ratio", ratio, rule));
        }
        Ok(Budget::from_units(units(ratio), floor))
    }
}

/// A builder for a [throttle](Budget::throttle).
///
/// The setters are named after the fields of a gRPC service config. [`build`](Self::build) returns
/// a [`ConfigError`] for an invalid setting.
#[derive(Clone, Copy, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct ThrottleBuilder {
    max_tokens: u32,
    token_ratio: f64,
}

impl ThrottleBuilder {
    /// Sets the number of tokens at the start, which is also the maximum.
    ///
    /// Default: `10`.
    ///
    /// It must be between 1 and 1,000. Retries stop when failures have taken out half of the
    /// tokens.
    pub fn max_tokens(mut self, tokens: u32) -> Self {
        self.max_tokens = tokens;
        self
    }

    /// Sets the share of a token that each success pays in.
    ///
    /// Default: `0.1`.
    ///
    /// It must be between 0.000001 and 1,000, and is rounded down to a millionth. With zero, a
    /// throttle would never recover.
    pub fn token_ratio(mut self, ratio: f64) -> Self {
        self.token_ratio = ratio;
        self
    }

    /// Validates the settings and returns the throttle.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] if a setting is out of range.
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
