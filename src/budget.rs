//! How many retries a client may send: a share of its calls, however many of them fail.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    ConfigError,
    admission::{Admission, Ledger},
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
/// use buttress::budget::Budget;
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
    deposit: u64,
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
        Self { bucket: Arc::new(Bucket { balance, most, deposit }) }
    }

    /// How many retries could be sent now.
    pub fn balance(&self) -> f64 {
        self.bucket.balance.load(Ordering::Relaxed) as f64 / TOKEN as f64
    }

    /// Retries that each call pays for.
    pub fn ratio(&self) -> f64 {
        self.bucket.deposit as f64 / TOKEN as f64
    }

    /// Pays in for a call.
    #[inline]
    pub(crate) fn deposit(&self) {
        self.bucket.pay_in(self.bucket.deposit);
    }

    /// Takes out a token for a retry; `None` if there is none. It is paid back if the retry is never
    /// sent.
    pub(crate) fn withdraw(&self) -> Option<Withdrawal> {
        let taken = |balance: u64| balance.checked_sub(TOKEN);
        self.bucket
            .balance
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken)
            .ok()
            .map(|_| Admission::new(Arc::clone(&self.bucket), ()))
    }
}

impl Bucket {
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

/// A token that was taken out for one retry.
pub(crate) type Withdrawal = Admission<Bucket>;

impl Ledger for Bucket {
    type Stamp = ();
    type Verdict = ();

    fn finished(&self, (): (), (): ()) {}

    fn abandoned(&self, (): (), _panicked: bool) {
        self.pay_in(TOKEN);
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
