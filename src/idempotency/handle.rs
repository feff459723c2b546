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
    /// It includes requests that are asking the store whether they may run. A run counts even if
    /// its caller no longer waits.
    pub fn in_flight(&self) -> u32 {
        self.shared.runs.count()
    }

    /// Stops new runs, for a shutdown. It cannot be undone.
    ///
    /// Later requests are rejected with [`Full`](crate::error::IdempotencyReason::Full), even if
    /// their result is recorded. Runs under way in this process continue, and their duplicates
    /// are treated as before. Requests that already wait get the result. Unguarded requests are
    /// not affected.
    pub fn close(&self) {
        self.shared.runs.close();
    }

    /// Waits until no run is under way.
    ///
    /// Use it when a process shuts down, because a run that is cut off becomes unknown. Call
    /// [`close`](Self::close) first, so that no new run begins. A run takes at most the
    /// [`run_limit`](super::IdempotencyBuilder::run_limit), plus the time to record its result,
    /// which ends with its lease.
    ///
    /// If the store fails at the end of a run, the layer retries the release of the key in the
    /// background. This method does not wait for that.
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
    /// Returns the counts of the layer since it was built, and the current use of its store.
    pub fn counts(&self) -> Counts {
        self.shared.counts.read(self.shared.store.usage())
    }

    /// Returns up to `limit` unknown operations, in the order of their storage keys.
    ///
    /// The list begins after the key `after`, or at the beginning if it is `None`. For the next
    /// page, pass the last key of this one.
    ///
    /// # Errors
    ///
    /// Returns a [`StoreError`] if the step fails or times out.
    pub async fn unknown(
        &self,
        after: Option<StorageKey>,
        limit: usize,
    ) -> Result<Vec<UnknownOperation>, StoreError> {
        self.shared.step("unknown", self.shared.store.unknown(after, limit)).await
    }

    /// Returns the number of unknown operations in the store.
    ///
    /// # Errors
    ///
    /// Returns a [`StoreError`] if the step fails or times out.
    pub async fn count_unknown(&self) -> Result<u64, StoreError> {
        self.shared.step("count_unknown", self.shared.store.count_unknown()).await
    }

    /// Records the real outcome of an unknown operation.
    ///
    /// Later requests then get this outcome. The result is [`StepOutcome::Stale`], and nothing is
    /// recorded, if the operation is no longer unknown, or if a later run has made it unknown
    /// again since it was listed.
    ///
    /// # Errors
    ///
    /// Returns a [`StoreError`] if the step fails or times out. The outcome may have been
    /// recorded all the same.
    pub async fn resolve(
        &self,
        unknown: &UnknownOperation,
        resolution: Resolution<St::Payload>,
    ) -> Result<StepOutcome, StoreError> {
        let step = self.shared.store.resolve(&unknown.key, unknown.fence, resolution);
        self.shared.step("resolve", step).await
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
            .field("counts", &self.shared.counts.read(None))
            .finish_non_exhaustive()
    }
}
