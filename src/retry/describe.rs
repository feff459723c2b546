//! The description of a retry layer for [`Stack::explain`](crate::Stack::explain).

use std::time::Duration;

use super::layer::RetryLayer;
use crate::{
    backoff::Jitter,
    describe::{Describe, Fact, Facts, fact},
    replay::DescribeReplay,
    sealed::Sealed,
};

/// The maximum number of retries of a call.
pub(crate) const RETRIES: Fact<u64> = Fact::new("retries");
/// The share of the calls that may be retried.
pub(crate) const BUDGET: Fact<f64> = Fact::new("budget of the retries");
/// The sum of the longest pauses up to each retry, for each of the first 1,000 retries.
pub(crate) const PAUSES: Fact<Duration> = Fact::new("pauses up to a retry");
/// The sum of the longest pauses of all retries, however many there are.
pub(crate) const ALL_PAUSES: Fact<Duration> = Fact::new("pauses of all retries");
/// The longest pause that a server can ask for, jitter included.
pub(crate) const HINTED_PAUSE: Fact<Duration> = Fact::new("pause that a server can ask for");
/// The longest time that a retry waits for readiness.
pub(crate) const READINESS_WAIT: Fact<Duration> = Fact::new("a retry's wait for readiness");

/// The maximum number of retries whose pauses are reported one by one.
const SHOWN: u32 = 1_000;

impl<P, C> Sealed for RetryLayer<P, C> {}

impl<P: DescribeReplay, C> Describe for RetryLayer<P, C> {
    fn describe(&self, facts: &mut Facts) {
        let (retries, backoff) = (self.retries(), self.backoff());
        let mut all_pauses = Duration::ZERO;
        for retry in 1..=retries.min(SHOWN) {
            all_pauses = all_pauses.saturating_add(backoff.longest(retry));
            facts.put(PAUSES, all_pauses);
        }
        let rest = retries.saturating_sub(SHOWN);
        let all_pauses = all_pauses.saturating_add(backoff.cap().saturating_mul(rest));
        let hint_cap = self.hint_cap();
        let hinted = hint_cap.saturating_add(backoff.ceiling(1).max(hint_cap / 5));
        facts.put(RETRIES, retries.into());
        facts.put(ALL_PAUSES, all_pauses);
        facts.put(HINTED_PAUSE, hinted);
        facts.put(READINESS_WAIT, self.readiness_wait());
        if self.replay().needs_http() {
            facts.note(fact::NEEDS_HTTP);
        }
        let budget = match self.budget().map(|budget| budget.ratio()) {
            Some(ratio) => {
                facts.put(BUDGET, ratio);
                format!("a budget of {:.0} % of the calls", ratio * 100.0)
            }
            None => "no budget".to_owned(),
        };
        let text =
            format_args!("up to {retries} retries, at most {all_pauses:?} of pauses, {budget}");
        facts.line("retry", text);
        if retries > 0 {
            self.warn(facts);
        }
    }
}

impl<P, C> RetryLayer<P, C> {
    fn warn(&self, facts: &mut Facts) {
        if self.budget().is_none() {
            let load = u64::from(self.retries()) + 1;
            let text = format!(
                "without a budget, a dependency that is down receives {load} times its load"
            );
            facts.warn("no_budget", text);
        }
        if self.backoff().jitter() == Jitter::None {
            let text = "without jitter, clients that failed together retry together";
            facts.warn("no_jitter", text);
        }
    }
}
