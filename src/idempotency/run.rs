//! The run of an operation, as its service sees it.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use super::{Hold, Key, Previous, StepOutcome, StorageKey, StoreError};

/// One run of an operation, as its service sees it.
///
/// Clones are the same run. An HTTP handler finds it in the extensions of the request.
#[derive(Clone)]
pub struct Run {
    hold: Hold,
    previous: Option<Arc<Previous>>,
    checkpoints: Arc<dyn Checkpoints>,
}

/// Saves checkpoints in a store whose type is erased.
pub(super) trait Checkpoints: Send + Sync {
    fn keep<'a>(
        &'a self,
        hold: &'a Hold,
        checkpoint: Vec<u8>,
    ) -> Pin<Box<dyn Future<Output = Result<StepOutcome, StoreError>> + Send + 'a>>;
}

/// A [`Checkpoints`] that saves nothing.
#[cfg(any(test, feature = "test-util"))]
struct NoCheckpoints;

#[cfg(any(test, feature = "test-util"))]
impl Checkpoints for NoCheckpoints {
    fn keep<'a>(
        &'a self,
        _: &'a Hold,
        _: Vec<u8>,
    ) -> Pin<Box<dyn Future<Output = Result<StepOutcome, StoreError>> + Send + 'a>> {
        Box::pin(std::future::ready(Ok(StepOutcome::Stale)))
    }
}

impl Run {
    pub(super) fn new(
        hold: Hold,
        previous: Option<Previous>,
        checkpoints: Arc<dyn Checkpoints>,
    ) -> Self {
        Self { hold, previous: previous.map(Arc::new), checkpoints }
    }

    /// Creates a run for the test of a service, without a layer.
    ///
    /// Its [`save`](Self::save) saves nothing and returns [`StepOutcome::Stale`].
    #[cfg(any(test, feature = "test-util"))]
    #[cfg_attr(docsrs, doc(cfg(feature = "test-util")))]
    pub fn for_test(hold: Hold, previous: Option<Previous>) -> Self {
        Self::new(hold, previous, Arc::new(NoCheckpoints))
    }

    /// Returns the key under which the record is stored.
    pub fn storage_key(&self) -> StorageKey {
        self.hold.key
    }

    /// Returns the fence of this run, which is larger than the fence of every earlier run.
    ///
    /// A system that stores the fence with each write can reject every later write with a smaller
    /// one.
    pub fn fence(&self) -> u64 {
        self.hold.fence
    }

    /// Returns the claim of this run.
    ///
    /// A [`transactional`](super::IdempotencyBuilder::transactional) service makes the transaction
    /// of its effect and its record conditional on this claim.
    pub fn hold(&self) -> Hold {
        self.hold
    }

    /// Derives an idempotency key for a call that the service makes. `step` names the call.
    ///
    /// The key is the same in every run of the operation. No other key can be guessed from it.
    pub fn child_key(&self, step: &str) -> Key {
        self.hold.key.child(step)
    }

    /// Returns the fence of the earlier run if this run takes over an unknown operation.
    pub fn previous_fence(&self) -> Option<u64> {
        self.previous.as_ref().map(|previous| previous.fence)
    }

    /// Returns the last checkpoint of the earlier run if this run takes over an unknown operation.
    pub fn checkpoint(&self) -> Option<&[u8]> {
        self.previous.as_ref()?.checkpoint.as_deref()
    }

    /// Saves a checkpoint for a run that [resumes](super::Resume) this one.
    ///
    /// It replaces the last one. If the result is [`StepOutcome::Stale`], stop the work, because
    /// the lease was lost and another run may be under way.
    ///
    /// # Errors
    ///
    /// Returns a [`StoreError`] if the step fails or times out. The checkpoint may have been saved
    /// all the same.
    pub async fn save(&self, checkpoint: impl Into<Vec<u8>>) -> Result<StepOutcome, StoreError> {
        self.checkpoints.keep(&self.hold, checkpoint.into()).await
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run")
            .field("hold", &self.hold)
            .field("previous", &self.previous)
            .finish_non_exhaustive()
    }
}
