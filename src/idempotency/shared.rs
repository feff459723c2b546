//! What all services of a layer share.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::{Instant, timeout};

use super::{
    Hold, StepOutcome, Store, StoreError,
    active_keys::ActiveKeys,
    config::Config,
    counts::{Counters, count},
    events,
    lease::Leases,
    run::Checkpoints,
    runs::Runs,
};
use crate::{
    CarryRejection,
    call::lock::lock,
    error::{IdempotencyReason, IdempotencyRejected, name_or},
    telemetry,
};

/// What outlives a call: it is used by tasks, and by the
/// [`IdempotencyHandle`](super::IdempotencyHandle).
pub(super) struct Shared<St> {
    pub(super) store: St,
    pub(super) config: Config,
    pub(super) runs: Arc<Runs>,
    /// Claims that are settled in the background.
    pub(super) settling: Arc<Runs>,
    pub(super) leases: Leases,
    pub(super) keys: ActiveKeys,
    pub(super) counts: Counters,
    /// When the store was swept last.
    swept: Mutex<Option<Instant>>,
}

impl<St> Shared<St> {
    pub(super) fn new(store: St, config: Config) -> Arc<Self> {
        Arc::new(Self {
            store,
            runs: Runs::new(config.max_runs),
            settling: Runs::new(config.max_runs),
            leases: Leases::default(),
            keys: ActiveKeys::default(),
            counts: Counters::default(),
            swept: Mutex::default(),
            config,
        })
    }

    /// Refuses a call, and says so.
    pub(super) fn reject<E: CarryRejection>(&self, reason: IdempotencyReason) -> E {
        if reason == IdempotencyReason::Unknown {
            count(&self.counts.unknowns);
        }
        self.reject_counted(reason)
    }

    /// The same, where it is counted already.
    pub(super) fn reject_counted<E: CarryRejection>(&self, reason: IdempotencyReason) -> E {
        let again = reason.come_back(self.config.retry_after);
        telemetry::reject(IdempotencyRejected::by(self.config.name.clone(), reason, again))
    }

    /// Says that nobody knows what became of a run of this process.
    pub(super) fn became_unknown(&self, hold: Hold) {
        count(&self.counts.unknowns);
        events::became_unknown(self.name(), hold.key, hold.fence);
    }

    /// Says that a lease was lost before its run had ended.
    pub(super) fn lease_lost(&self, hold: Hold) {
        count(&self.counts.lost_leases);
        events::lease_lost(self.name(), hold.key);
    }

    /// Takes a step of the store, in bounded time.
    pub(super) async fn step<T>(
        &self,
        step: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let began = Instant::now();
        let result = match timeout(self.config.store_timeout, step).await {
            Ok(result) => result,
            Err(late) => Err(StoreError::unavailable(late)),
        };
        let took = began.elapsed();
        self.counts.store_step(took);
        if let Err(error) = &result {
            count(&self.counts.store_errors);
            events::store_failed(self.name(), error, took);
        }
        result
    }

    pub(super) fn name(&self) -> &str {
        name_or(&self.config.name, "idempotency")
    }
}

/// How many records are brought up to date at once, so that no sweep holds up others for long.
const SWEEP: usize = 1_000;

/// How often in a row.
const SWEEPS: usize = 1_000;

/// How often, at most.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

impl<St: Store> Shared<St> {
    /// Clears away what is over, now and then: there is no task for it that runs on when there are no
    /// requests.
    pub(super) fn sweep_now_and_then(self: &Arc<Self>) {
        let now = Instant::now();
        let mut swept = lock(&self.swept);
        if swept.is_some_and(|swept| now.saturating_duration_since(swept) < SWEEP_EVERY) {
            return;
        }
        *swept = Some(now);
        drop(swept);
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            // As long as there is more of it, so that what comes faster than a sweep a minute clears away does
            // not pile up; and not for ever, whatever the store says.
            for _ in 0..SWEEPS {
                let step = shared.store.sweep(SWEEP);
                let Ok(SWEEP..) = shared.step(step).await else { break };
                // A store in memory never waits, and requests would.
                tokio::task::yield_now().await;
            }
        });
    }
}

impl<St: Store> Checkpoints for Shared<St> {
    fn keep<'a>(
        &'a self,
        hold: &'a Hold,
        checkpoint: Vec<u8>,
    ) -> Pin<Box<dyn Future<Output = Result<StepOutcome, StoreError>> + Send + 'a>> {
        Box::pin(self.step(self.store.checkpoint(hold, checkpoint)))
    }
}
