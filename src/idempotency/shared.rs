//! The state that all services of a layer share.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::{Instant, timeout};

use super::{
    Claim, Hold, StepOutcome, Store, StoreError, StoreUsage,
    active_keys::ActiveKeys,
    config::Config,
    counts::{Counters, count},
    lease::Leases,
    run::Checkpoints,
    runs::Runs,
};
use crate::{
    CarryRejection,
    call::lock::lock,
    error::{IdempotencyReason, IdempotencyRejected},
    telemetry::{
        Event, Meter, Reporter,
        instrument::{IDEMPOTENCY_REQUESTS, IDEMPOTENCY_STORE_DURATION},
    },
};

/// The state that outlives a call.
///
/// Tasks and the [`IdempotencyHandle`](super::IdempotencyHandle) use it.
pub(super) struct Shared<St> {
    pub(super) store: St,
    pub(super) config: Config,
    pub(super) runs: Arc<Runs>,
    /// The claims that are settled in the background.
    pub(super) settling: Arc<Runs>,
    /// The claims that may still be on their way, and are released until they arrive.
    pub(super) arriving: Arc<Runs>,
    pub(super) leases: Leases,
    pub(super) keys: ActiveKeys,
    pub(super) counts: Counters,
    /// The time of the last sweep of the store.
    swept: Mutex<Option<Instant>>,
    /// The times of the last warnings about the store and about a share.
    warned: Mutex<[Option<Instant>; 2]>,
}

impl<St> Shared<St> {
    pub(super) fn new(store: St, config: Config) -> Arc<Self> {
        Arc::new(Self {
            store,
            runs: Runs::new(config.max_runs),
            settling: Runs::new(config.max_runs),
            // Apart, because each of them takes 30 s or more.
            arriving: Runs::new(config.max_runs.div_ceil(4)),
            leases: Leases::default(),
            keys: ActiveKeys::default(),
            counts: Counters::default(),
            swept: Mutex::default(),
            warned: Mutex::default(),
            config,
        })
    }

    /// Rejects a call and emits the event.
    pub(super) fn reject<E: CarryRejection>(&self, reason: IdempotencyReason) -> E {
        if reason == IdempotencyReason::Unknown {
            count(&self.counts.unknowns);
        }
        self.reject_counted(reason)
    }

    /// Rejects a call that is counted already.
    pub(super) fn reject_counted<E: CarryRejection>(&self, reason: IdempotencyReason) -> E {
        let again = reason.come_back(self.config.retry_after);
        let reporter = self.reporter();
        let name = Some(reporter.name().clone());
        reporter.reject(IdempotencyRejected::by(name, reason, again))
    }

    /// Counts a request with a key in the registry, by its result.
    pub(super) fn count_request(&self, result: &'static str) {
        if let Some(meter) = self.meter() {
            meter.add(&IDEMPOTENCY_REQUESTS, [result, ""]);
        }
    }

    /// Counts a run of this process that became unknown, and emits the event.
    pub(super) fn became_unknown(&self, hold: Hold) {
        count(&self.counts.unknowns);
        let (key, fence) = (format_args!("{}", hold.key), hold.fence);
        self.reporter().emit(Event::OperationUnknown { key, fence });
    }

    /// Counts a lease that was lost before its run ended, and emits the event.
    pub(super) fn lease_lost(&self, hold: Hold) {
        count(&self.counts.lost_leases);
        self.reporter().emit(Event::LeaseLost { key: format_args!("{}", hold.key) });
    }

    /// Takes a step of the store within the store timeout, and counts it under its name.
    pub(super) async fn step<T>(
        &self,
        name: &'static str,
        step: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let began = Instant::now();
        let result = match timeout(self.config.store_timeout, step).await {
            Ok(result) => result,
            Err(late) => Err(StoreError::unavailable(late)),
        };
        let took = began.elapsed();
        self.counts.store_step(took);
        if let Some(meter) = self.meter() {
            let outcome = if result.is_ok() { "success" } else { "failure" };
            meter.measure(&IDEMPOTENCY_STORE_DURATION, [name, outcome], took);
        }
        if let Err(error) = &result {
            count(&self.counts.store_errors);
            let error = format_args!("{error}");
            self.reporter().emit(Event::StoreFailed { error, took });
        }
        result
    }

    pub(super) fn reporter(&self) -> &Reporter {
        self.config.reporter.get()
    }

    /// Returns the numbers of the layer, if it is registered.
    pub(super) fn meter(&self) -> Option<&Arc<Meter>> {
        self.config.reporter.meter()
    }
}

/// The maximum number of records in one step, so that a sweep does not delay requests for long.
const SWEEP: usize = 1_000;

/// The maximum number of steps in one sweep.
const SWEEPS: usize = 1_000;

/// The minimum time between two sweeps.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// The fill level, in percent, from which the layer warns.
const ALMOST_FULL: u64 = 80;

/// The minimum time between two warnings of the same kind.
const WARN_EVERY: Duration = Duration::from_secs(60);

impl<St: Store> Shared<St> {
    /// Emits an event if the store, or the share of the scope of a claim, is almost full.
    pub(super) fn warn_if_almost_full(&self, claim: &Claim, now: Instant) {
        let found = [(self.store.usage(), "store"), (self.store.share(claim), "share of a scope")];
        for (kind, (usage, of)) in found.into_iter().enumerate() {
            let percent = usage.as_ref().map_or(0, StoreUsage::percent);
            if percent < ALMOST_FULL {
                continue;
            }
            let mut warned = lock(&self.warned);
            if warned[kind].is_some_and(|at| now.saturating_duration_since(at) < WARN_EVERY) {
                continue;
            }
            warned[kind] = Some(now);
            drop(warned);
            self.reporter().emit(Event::StoreAlmostFull { of, percent });
        }
    }

    /// Starts a sweep of the store if the last one was long enough ago.
    ///
    /// The end of a run triggers it. A permanent task would keep running without requests.
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
            // It repeats while a step reaches its limit, because more records may end in a minute
            // than one step removes. The number of steps is bounded, whatever the store returns.
            for _ in 0..SWEEPS {
                let step = shared.store.sweep(SWEEP);
                let Ok(SWEEP..) = shared.step("sweep", step).await else { break };
                // A store in memory never yields by itself, and requests would wait.
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
        Box::pin(self.step("checkpoint", self.store.checkpoint(hold, checkpoint)))
    }
}
