//! What an operator sees of a guard, and does.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, timeout};

use super::{
    Resolution, StorageKey, Store, StoreError, UnknownOperation, Written, events, layer::Shared,
};
use crate::call::lock::lock;

/// What an operator sees of an idempotency guard, and does. Clones are the same handle.
pub struct Guard<St> {
    shared: Arc<Shared<St>>,
}

impl<St> Guard<St> {
    pub(super) fn new(shared: Arc<Shared<St>>) -> Self {
        Self { shared }
    }

    /// How many runs this process has under way, whether or not anybody still waits for them, and requests
    /// that ask the store.
    pub fn in_flight(&self) -> u32 {
        self.shared.runs.count()
    }

    /// What the guard has done since it was built.
    pub fn counts(&self) -> Counts {
        self.shared.counts.read()
    }

    /// Begins no further run: requests that come from here on are refused as if the guard were full, also if
    /// their result is recorded. Those who wait for a run get its result.
    pub fn close(&self) {
        self.shared.runs.close();
    }

    /// Waits until no run is under way. After [`close`](Self::close) none begins; what runs is bounded by
    /// the run limit. For a process that shuts down: a run that it does not wait for is unknown. What could not
    /// be written down at its end is tried again for as long as the runtime lives, which this does not wait for.
    pub async fn drained(&self) {
        self.shared.runs.drained().await;
    }

    /// Where the records are.
    pub fn store(&self) -> &St {
        &self.shared.store
    }
}

impl<St: Store> Guard<St> {
    /// Up to `limit` unknown operations, in the order of their keys, from behind `after`.
    ///
    /// # Errors
    ///
    /// If the store fails or is late.
    pub async fn unknown(
        &self,
        after: Option<StorageKey>,
        limit: usize,
    ) -> Result<Vec<UnknownOperation>, StoreError> {
        self.shared.step(self.shared.store.unknown(after, limit)).await
    }

    /// How many operations are unknown.
    ///
    /// # Errors
    ///
    /// If the store fails or is late.
    pub async fn count_unknown(&self) -> Result<u64, StoreError> {
        self.shared.step(self.shared.store.count_unknown()).await
    }

    /// Says what became of an unknown operation. Stale if it is not unknown any more, or was lost again
    /// since it was listed.
    ///
    /// # Errors
    ///
    /// If the store fails or is late.
    pub async fn resolve(
        &self,
        unknown: &UnknownOperation,
        resolution: Resolution<St::Payload>,
    ) -> Result<Written, StoreError> {
        self.shared.step(self.shared.store.resolve(&unknown.key, unknown.fence, resolution)).await
    }
}

impl<St> Clone for Guard<St> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<St> fmt::Debug for Guard<St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("in_flight", &self.in_flight())
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// What a guard has done since it was built.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)+
            /// How long the store took for them in all.
            pub store_time: Duration,
        }

        /// The same, as it is counted.
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: AtomicU64,)+
            store_nanos: AtomicU64,
        }

        impl Counters {
            fn read(&self) -> Counts {
                Counts {
                    $($name: self.$name.load(Ordering::Relaxed),)+
                    store_time: Duration::from_nanos(self.store_nanos.load(Ordering::Relaxed)),
                }
            }
        }
    };
}

counts! {
    /// Claims that were granted.
    claims,
    /// Of these, how many took over an unknown operation.
    takeovers,
    /// Results that were given again.
    replays,
    /// Requests that found the same one under way, each time that one was told so.
    conflicts,
    /// Requests with a key that was used for another.
    mismatches,
    /// Requests for which nobody knows what became of them: runs that were lost here, and requests that were
    /// told so.
    unknowns,
    /// Leases that ended before their run.
    lost_leases,
    /// Steps of the store that failed or were late.
    store_errors,
    /// Steps of the store.
    store_steps,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// How many records are brought up to date at once, so that no sweep holds up others for long.
const SWEEP: usize = 1_000;

/// How often in a row.
const SWEEPS: usize = 1_000;

/// How often, at most.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

impl<St> Shared<St> {
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
        count(&self.counts.store_steps);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.counts.store_nanos.fetch_add(nanos, Ordering::Relaxed);
        if let Err(error) = &result {
            count(&self.counts.store_errors);
            events::store_failed(self.name(), error, took);
        }
        result
    }

    pub(super) fn name(&self) -> &str {
        self.config.name.as_ref().map_or("idempotency", crate::Name::as_str)
    }
}

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
