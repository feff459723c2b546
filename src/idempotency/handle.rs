//! The handle for inspecting and controlling an idempotency layer.

use std::{fmt, sync::Arc};

use super::{
    Counts, Resolution, StepOutcome, StorageKey, Store, StoreError, UnknownOperation,
    shared::Shared,
};

/// A handle for inspecting and controlling an idempotency layer at run time.
///
/// Clones are the same handle.
pub struct IdempotencyHandle<St> {
    shared: Arc<Shared<St>>,
}

impl<St> IdempotencyHandle<St> {
    pub(super) fn new(shared: Arc<Shared<St>>) -> Self {
        Self { shared }
    }

    /// Returns the number of runs under way in this process.
    ///
    /// It includes requests that ask the store. A run counts even after its caller has left.
    pub fn in_flight(&self) -> u32 {
        self.shared.runs.count()
    }

    /// Returns the counts of the layer since it was built.
    pub fn counts(&self) -> Counts {
        self.shared.counts.read()
    }

    /// Stops new runs.
    ///
    /// Later requests are rejected as if no slot were free, even if their result is recorded.
    /// Requests that already wait for a run get its result. Unguarded requests are not affected.
    pub fn close(&self) {
        self.shared.runs.close();
    }

    /// Waits until no run is under way.
    ///
    /// Call [`close`](Self::close) first, so that no run begins. A run lasts at most for the run
    /// limit, plus the time for recording its result, which ends with its lease. Use it when a
    /// process shuts down, because a run that is cut off becomes unknown. A claim that could not
    /// be settled at the end of its run is settled in the background while the runtime lives.
    /// This method does not wait for that.
    ///
    /// # Cancellation
    ///
    /// Dropping the future stops only the wait.
    pub async fn drained(&self) {
        self.shared.runs.drained().await;
    }

    /// Returns a reference to the store.
    pub fn store(&self) -> &St {
        &self.shared.store
    }
}

impl<St: Store> IdempotencyHandle<St> {
    /// Returns up to `limit` unknown operations, in the order of their keys.
    ///
    /// The list begins after the key `after`, or with the first one.
    ///
    /// # Errors
    ///
    /// If the store fails or the call times out.
    pub async fn unknown(
        &self,
        after: Option<StorageKey>,
        limit: usize,
    ) -> Result<Vec<UnknownOperation>, StoreError> {
        self.shared.step(self.shared.store.unknown(after, limit)).await
    }

    /// Returns the number of unknown operations.
    ///
    /// # Errors
    ///
    /// If the store fails or the call times out.
    pub async fn count_unknown(&self) -> Result<u64, StoreError> {
        self.shared.step(self.shared.store.count_unknown()).await
    }

    /// Records the real outcome of an unknown operation.
    ///
    /// The result is [`StepOutcome::Stale`] if the operation is no longer unknown, or became
    /// unknown again in a later run since it was listed.
    ///
    /// # Errors
    ///
    /// If the store fails or the call times out. The outcome may have been recorded.
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
