//! The numbers of one dependency.

use serde::Serialize;

/// The numbers of one dependency over the last seconds.
///
/// A dependency is a [`Stack`](buttress::Stack), by its name. A layer outside of a stack is one of
/// its own. [`diagnose`](crate::diagnose) reads a snapshot. To build one for a test, start with
/// `Snapshot::default()` and set its fields.
///
/// All times are in seconds. Counts are those of the last [`seconds`](Self::seconds), unless
/// [`totals`](Self::totals) has them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Snapshot {
    /// The name of the stack, or of the layer.
    pub name: String,
    /// The name of the stack, or `None` for a layer outside of a stack.
    pub stack: Option<String>,
    /// The time that the counts cover.
    pub seconds: f64,
    /// The calls that have begun and not ended. `None` for a layer outside of a stack.
    pub active: Option<u64>,
    /// The calls that ended. `None` for a layer outside of a stack.
    pub calls: Option<Ended>,
    /// The attempts that ended. `None` if there is no retry.
    pub attempts: Option<Ended>,
    /// The causes of the calls that failed or were rejected, the most frequent first.
    pub errors: Vec<Cause>,
    /// The rejections of all layers, the most frequent first.
    pub rejections: Vec<Rejected>,
    /// The circuit breaker, if there is one.
    pub breaker: Option<Breaker>,
    /// The bulkhead, if there is one.
    pub bulkhead: Option<Bulkhead>,
    /// The fallback, if there is one.
    pub fallback: Option<Fallback>,
    /// The cache, if there is one.
    pub cache: Option<Cache>,
    /// The endpoints, if there are any.
    pub endpoints: Option<Endpoints>,
    /// The retry, if there is one.
    pub retry: Option<Retry>,
    /// The idempotency layer, if there is one.
    pub idempotency: Option<Idempotency>,
    /// The chaos layer, if there is one.
    pub chaos: Option<Chaos>,
    /// The limit of the last attempt that timed out.
    pub attempt_limit: Option<f64>,
    /// The limit of the last call that timed out as a whole.
    pub total_limit: Option<f64>,
    /// The last reading in which many attempts failed, if it was within an hour.
    pub last_failing: Option<Failing>,
    /// The counts since the beginning.
    pub totals: Totals,
}

/// Calls or attempts that ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Ended {
    /// Those that succeeded.
    pub success: u64,
    /// Those that failed.
    pub failure: u64,
    /// Those that a layer rejected.
    pub rejected: u64,
    /// Those that were dropped before their end.
    pub cancelled: u64,
    /// Those with a response that a layer gave instead of the dependency.
    pub degraded: u64,
    /// The median duration of those that succeeded or failed.
    pub p50: Option<f64>,
    /// The duration that 99 % of them did not exceed.
    pub p99: Option<f64>,
    /// The duration that 99 % of those that succeeded did not exceed.
    pub success_p99: Option<f64>,
    /// The median of those that succeeded before these seconds, if there were at least 20.
    pub usual: Option<f64>,
}

impl Ended {
    /// Returns the number of those that were not dropped.
    pub(crate) fn not_cancelled(&self) -> u64 {
        self.success + self.failure + self.rejected + self.degraded
    }
}

/// A cause, and how often it occurred.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Cause {
    /// The cause, such as `503` or `circuit_open`.
    pub cause: String,
    /// The number of times.
    pub count: u64,
}

/// Rejections of one layer for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Rejected {
    /// The kind of the layer, such as `attempt_timeout`.
    pub kind: String,
    /// The reason, such as `timed_out`.
    pub cause: String,
    /// The number of times.
    pub count: u64,
}

/// The state of a circuit breaker.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Breaker {
    /// The name of the layer.
    pub layer: String,
    /// The state: `closed`, `disabled`, `half_open`, `open` or `forced_open`. Of a breaker by key,
    /// it is the worst state of a key.
    pub state: Option<String>,
    /// The time in this state.
    pub since: Option<f64>,
    /// The time until an open breaker admits a probe, or until a forced one ends by itself.
    pub next_probe: Option<f64>,
    /// The share of failures among the calls in its window.
    pub failure_ratio: Option<f64>,
    /// The share of slow calls among the calls in its window.
    pub slow_ratio: Option<f64>,
    /// The calls in its window.
    pub window_calls: Option<u64>,
    /// The reason for which it opened last, such as `failure_rate`.
    pub reason: Option<String>,
    /// The actor who changed it last through the registry.
    pub actor: Option<String>,
    /// The number of times that it opened, since the beginning.
    pub opened: u64,
    /// The probes that passed.
    pub probes_passed: u64,
    /// The probes that did not pass.
    pub probes_failed: u64,
    /// The number of its keys, for a breaker by key.
    pub keys: Option<u64>,
    /// The number of keys whose circuit is open or half-open, by itself or by hand.
    pub keys_open: Option<u64>,
    /// The number of keys whose circuit somebody forced open.
    pub keys_forced_open: Option<u64>,
}

/// The state of a bulkhead.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Bulkhead {
    /// The name of the layer.
    pub layer: String,
    /// The calls that hold a slot.
    pub active: Option<u64>,
    /// The number of slots.
    pub limit: Option<u64>,
    /// The calls that wait for a slot.
    pub queued: Option<u64>,
    /// The maximum number of calls that wait.
    pub queue_limit: Option<u64>,
}

/// The work of a fallback.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Fallback {
    /// The name of the layer.
    pub layer: String,
    /// `true` if somebody switched the dependency off.
    pub is_off: bool,
    /// The actor who switched it last through the registry.
    pub actor: Option<String>,
    /// The failed calls whose response it gave.
    pub used: u64,
    /// The calls whose response it gave while the dependency was switched off.
    pub off: u64,
    /// The calls for which it failed.
    pub failed: u64,
    /// The calls for which it had no response.
    pub declined: u64,
}

/// The work of a cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Cache {
    /// The name of the layer.
    pub layer: String,
    /// The calls that got a fresh response without a call of the dependency.
    pub hits: u64,
    /// The calls that got a response that was no longer fresh.
    pub stale: u64,
    /// The calls that got the result of a call that another caller began.
    pub collapsed: u64,
    /// The calls that called the dependency.
    pub forwarded: u64,
    /// The entries that are kept.
    pub entries: Option<u64>,
    /// The bytes of these entries.
    pub bytes: Option<u64>,
}

impl Cache {
    /// Returns the number of calls for which the dependency was not called.
    pub(crate) fn without_call(&self) -> u64 {
        self.hits + self.stale + self.collapsed
    }
}

/// The states of endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Endpoints {
    /// The name of the endpoints.
    pub layer: String,
    /// The endpoints that get calls.
    pub usable: u64,
    /// The endpoints that failed too often in a row.
    pub ejected: u64,
    /// The endpoints whose checks fail.
    pub check_failed: u64,
    /// The endpoints that are drained.
    pub draining: u64,
    /// The calls to all of them that have begun and not ended.
    pub active: Option<u64>,
}

impl Endpoints {
    /// Returns the number of endpoints.
    pub(crate) fn all(&self) -> u64 {
        self.usable + self.out() + self.draining
    }

    /// Returns the number of endpoints that are out because they fail.
    pub(crate) fn out(&self) -> u64 {
        self.ejected + self.check_failed
    }
}

/// The work of a retry.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Retry {
    /// The name of the layer.
    pub layer: String,
    /// The attempts after the first one of a call.
    pub resends: u64,
    /// The calls that were retried and succeeded.
    pub saved: u64,
    /// The calls that were retried and failed.
    pub lost: u64,
    /// The share of the budget that is left.
    pub budget: Option<f64>,
    /// The retries that the budget allows.
    pub tokens: Option<f64>,
    /// The reasons for which failed calls were not retried any further.
    pub ended: Vec<Cause>,
}

/// The work of an idempotency layer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Idempotency {
    /// The name of the layer.
    pub layer: String,
    /// The operations that run.
    pub active: Option<u64>,
    /// The operations whose outcome became unknown.
    pub unknown: u64,
    /// The same, since the beginning.
    pub unknown_total: u64,
    /// The leases that ended before their run.
    pub leases_lost: u64,
}

/// The state of a chaos layer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Chaos {
    /// The name of the layer.
    pub layer: String,
    /// The number of layers of this name that are armed.
    pub armed: u64,
    /// The calls and bodies that hang on purpose.
    pub hung: u64,
    /// The faults that were injected, by kind, the most frequent first.
    pub faults: Vec<Cause>,
}

/// A reading in which many attempts failed.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Failing {
    /// The time since it.
    pub ago: f64,
    /// The attempts that ended.
    pub sent: u64,
    /// Those that failed or timed out.
    pub failed: u64,
    /// The most frequent cause.
    pub cause: Option<String>,
}

/// The counts of calls since the beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Totals {
    /// The calls that succeeded.
    pub success: u64,
    /// The calls that failed.
    pub failure: u64,
    /// The calls that a layer rejected.
    pub rejected: u64,
    /// The calls that were dropped before their end.
    pub cancelled: u64,
    /// The calls with a response that a layer gave instead of the dependency.
    pub degraded: u64,
    /// The calls that were retried and succeeded. They are among those that succeeded.
    pub saved: u64,
    /// The calls that were retried and failed.
    pub lost: u64,
}

impl Totals {
    /// Returns `true` if no call has ended.
    pub(crate) fn is_zero(&self) -> bool {
        self.success + self.failure + self.rejected + self.cancelled + self.degraded == 0
    }
}

/// The cause of an attempt that panicked.
pub(crate) const PANIC: &str = "panic";
/// The cause of an attempt that a timeout ended.
pub(crate) const TIMED_OUT: &str = "timed_out";

impl Snapshot {
    /// Returns the number of rejections for a reason, by layers of any kind.
    pub(crate) fn rejected(&self, cause: &str) -> u64 {
        self.rejections.iter().filter(|it| it.cause == cause).map(|it| it.count).sum()
    }

    /// Returns the number of calls that the bulkhead rejected because it was full.
    pub(crate) fn rejected_as_full(&self) -> u64 {
        self.rejected("bulkhead_full") + self.rejected("queue_timed_out")
    }

    /// Returns the rejections by layers that do not speak for the dependency.
    pub(crate) fn other_rejections(&self) -> impl Iterator<Item = &Rejected> {
        let speaks = |it: &Rejected| it.cause == "circuit_open" || it.kind == "attempt_timeout";
        self.rejections.iter().filter(move |it| !speaks(it))
    }

    /// Returns the number of calls that were rejected, but not by an open circuit.
    pub(crate) fn rejected_when_closed(&self) -> u64 {
        let rejected = self.calls.as_ref().map_or(0, |calls| calls.rejected);
        rejected.saturating_sub(self.rejected("circuit_open"))
    }

    /// Returns the number of calls or attempts that a timeout of this kind ended.
    pub(crate) fn timed_out(&self, kind: &str) -> u64 {
        let timed_out = |it: &&Rejected| it.kind == kind && it.cause == TIMED_OUT;
        self.rejections.iter().find(timed_out).map_or(0, |it| it.count)
    }

    /// Returns the number of attempts that reached the dependency, and how many of them failed.
    ///
    /// Without a retry, each call is one attempt, unless the cache had a response for it.
    pub(crate) fn sent_and_failed(&self) -> (u64, u64) {
        let (success, failed) = match (&self.attempts, &self.calls) {
            // A timeout is a failure of the dependency. A rejected attempt was not sent.
            (Some(attempts), _) => (attempts.success, attempts.failure),
            (None, Some(calls)) => {
                let cached = self.cache.as_ref().map_or(0, Cache::without_call);
                (calls.success.saturating_sub(cached), self.failed_without_retry(calls))
            }
            (None, None) => (0, 0),
        };
        (success + failed, failed)
    }

    /// Returns the number of calls that failed at the dependency, each of which is one attempt.
    fn failed_without_retry(&self, calls: &Ended) -> u64 {
        let late = (calls.rejected + calls.degraded).min(self.timed_out("attempt_timeout"));
        let used = self.fallback.as_ref().map_or(0, |fallback| fallback.used);
        // A rejection that did not end its call was replaced by the fallback. Of the calls that
        // the fallback saved, only the others have failed at the dependency.
        let rejections: u64 = self.rejections.iter().map(|it| it.count).sum();
        let rejected = rejections.saturating_sub(calls.rejected);
        calls.failure + late + calls.degraded.min(used).saturating_sub(rejected)
    }

    /// Returns `true` if so many attempts failed that the dependency has a problem.
    pub(crate) fn is_failing(&self) -> bool {
        let (sent, failed) = self.sent_and_failed();
        failed > 0 && failed >= sent / 10
    }

    /// Returns the most frequent cause of the failed attempts.
    pub(crate) fn cause(&self) -> Option<&str> {
        let rejection = |cause: &str| self.rejections.iter().any(|it| it.cause == cause);
        let of_service = self.errors.iter().find(|it| !rejection(&it.cause));
        let late = self.timed_out("attempt_timeout");
        match of_service {
            Some(cause) if cause.count >= late => Some(&cause.cause),
            None if late == 0 => None,
            _ => Some(TIMED_OUT),
        }
    }
}
