//! The layer that rejected a call in the current poll.

use std::{cell::Cell, num::NonZeroUsize, ptr};

thread_local! {
    static REJECTED_BY: Cell<Option<NonZeroUsize>> = const { Cell::new(None) };
}

/// The identity of a layer's state, which rejects the calls of all services that share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RejectedBy(NonZeroUsize);

impl RejectedBy {
    /// Notes that this state of a layer rejects a call in the current poll.
    pub(crate) fn note<T>(state: &T) {
        REJECTED_BY.set(NonZeroUsize::new(ptr::from_ref(state).addr()));
    }

    /// Forgets the rejections of earlier calls. Call it before a service is polled.
    #[inline]
    pub(crate) fn forget() {
        REJECTED_BY.set(None);
    }

    /// Returns the last state that has rejected a call since [`forget`](Self::forget).
    pub(crate) fn last() -> Option<Self> {
        REJECTED_BY.get().map(Self)
    }
}
