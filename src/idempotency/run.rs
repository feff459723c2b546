//! What a service is told of its run.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use super::{Hold, Key, Previous, StepOutcome, StorageKey, StoreError};

/// One run of a guarded operation, as its service sees it. Clones are the same run.
///
/// An HTTP handler finds it among the extensions of the request.
#[derive(Clone)]
pub struct Run {
    hold: Hold,
    previous: Option<Arc<Previous>>,
    checkpoints: Arc<dyn Checkpoints>,
}

/// Where checkpoints are kept, whatever the store is.
pub(super) trait Checkpoints: Send + Sync {
    fn keep<'a>(
        &'a self,
        hold: &'a Hold,
        checkpoint: Vec<u8>,
    ) -> Pin<Box<dyn Future<Output = Result<StepOutcome, StoreError>> + Send + 'a>>;
}

/// Keeps nothing.
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

    /// A run for the test of a service, without a guard. What it saves is not kept: that is [`StepOutcome::Stale`].
    #[cfg(any(test, feature = "test-util"))]
    #[cfg_attr(docsrs, doc(cfg(feature = "test-util")))]
    pub fn for_test(hold: Hold, previous: Option<Previous>) -> Self {
        Self::new(hold, previous, Arc::new(NoCheckpoints))
    }

    /// What the record is stored under.
    pub fn storage_key(&self) -> StorageKey {
        self.hold.key
    }

    /// The fence of this run: larger than that of every earlier run of the operation. What is written with a
    /// fence can refuse all that comes later with a smaller one.
    pub fn fence(&self) -> u64 {
        self.hold.fence
    }

    /// The claim that this run has: what a record that is written in the same transaction as the effect is
    /// conditional on.
    pub fn hold(&self) -> Hold {
        self.hold
    }

    /// A key for a step of this operation, for what the service calls in turn: the same in every run of the
    /// operation, and of no use for guessing any other.
    pub fn child_key(&self, step: &str) -> Key {
        self.hold.key.child(step)
    }

    /// The fence of the run that was lost, if this one takes over.
    pub fn previous_fence(&self) -> Option<u64> {
        self.previous.as_ref().map(|previous| previous.fence)
    }

    /// How far the run had come that was lost, if it said so.
    pub fn checkpoint(&self) -> Option<&[u8]> {
        self.previous.as_ref()?.checkpoint.as_deref()
    }

    /// Keeps how far this run has come, for a run that [resumes](super::Resume) it. Do not go on if it is
    /// [`StepOutcome::Stale`]: the lease has been lost, and another run may be under way.
    ///
    /// # Errors
    ///
    /// If the store fails or is late: then it is not known whether it was kept.
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
