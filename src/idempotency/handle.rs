//! The handle for inspecting and controlling an idempotency layer.

use std::{fmt, sync::Arc};

use super::{
    Counts, Resolution, StepOutcome, StorageKey, Store, StoreError, UnknownOperation,
    shared::Shared,
};

/// A handle for inspecting and controlling an idempotency layer at run time. Clones are the same
/// handle.
pub struct IdempotencyHandle<St> {
    shared: Arc<Shared<St>>,
}

impl<St> IdempotencyHandle<St> {
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

impl<St: Store> IdempotencyHandle<St> {
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
    ) -> Result<StepOutcome, StoreError> {
        self.shared.step(self.shared.store.resolve(&unknown.key, unknown.fence, resolution)).await
    }
}

impl<St> Clone for IdempotencyHandle<St> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<St> fmt::Debug for IdempotencyHandle<St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyHandle")
            .field("in_flight", &self.in_flight())
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}
