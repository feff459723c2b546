//! What a service is told of its run.

use std::sync::Arc;

use super::{Hold, Key, StorageKey};

/// One run of a guarded operation, as its service sees it. Clones are the same run.
///
/// An HTTP handler finds it among the extensions of the request.
#[derive(Clone, Debug)]
pub struct Run {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    hold: Hold,
    checkpoint: Option<Vec<u8>>,
}

impl Run {
    pub(crate) fn new(hold: Hold, checkpoint: Option<Vec<u8>>) -> Self {
        Self { shared: Arc::new(Shared { hold, checkpoint }) }
    }

    /// What the record is stored under.
    pub fn storage_key(&self) -> StorageKey {
        self.shared.hold.key
    }

    /// The fence of this run: larger than that of every earlier run of the operation. What is written with a
    /// fence can refuse all that comes later with a smaller one.
    pub fn fence(&self) -> u64 {
        self.shared.hold.fence
    }

    /// The claim that this run has: what a record that is written in the same transaction as the effect is
    /// conditional on.
    pub fn hold(&self) -> Hold {
        self.shared.hold
    }

    /// A key for a step of this operation, for what the service calls in turn: the same in every run of the
    /// operation, and of no use for guessing any other.
    pub fn child_key(&self, step: &str) -> Key {
        self.shared.hold.key.child(step)
    }

    /// How far an earlier run had come that was lost, if it said so.
    pub fn checkpoint(&self) -> Option<&[u8]> {
        self.shared.checkpoint.as_deref()
    }
}
