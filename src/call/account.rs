//! Accounts that are settled when a response has ended.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{Outcome, error::Nanos};

/// An account that a layer keeps of its calls, for those whose response goes on after its head.
///
/// What a layer shares with its services implements it, so that holding one more reference to it is
/// all that a call costs.
pub(crate) trait Account: Send + Sync {
    /// Settles the admission that `stamp` identifies.
    fn settle(&self, stamp: Stamp, end: &End);
}

/// The end of a response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) how: How,
    /// For how long the caller has waited since the head, all its reads together.
    pub(crate) waited: Duration,
    /// When the head was there, if an account asked.
    pub(super) head: Option<Instant>,
}

impl End {
    /// Returns how long ago the head was there; nothing if no account asked for it.
    pub(crate) fn since_head(&self) -> Duration {
        self.head.map_or(Duration::ZERO, |head| head.elapsed())
    }
}

/// How a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// It ran to its end, which says this of the service.
    Complete(Outcome),
    /// Its body was dropped while nobody waited for more of it.
    DroppedBetweenReads,
    /// Its body was dropped while a read had been waiting for [`End::waited`].
    DroppedWhileReading,
    /// Producing it panicked.
    Panicked,
}

/// The identity of an admission, and what its account asked to know again at its end.
///
/// Times are kept as their distance from the head, a word each: `CallEnd` is moved with every
/// response.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stamp {
    pub(crate) word: u64,
    pub(crate) lease: Option<NonZeroU64>,
    ran: Option<Nanos>,
    left: Option<Nanos>,
}

impl Stamp {
    pub(crate) const fn new(word: u64, lease: Option<NonZeroU64>) -> Self {
        Self { word, lease, ran: None, left: None }
    }

    /// Adds when the call began and the deadline that its caller has.
    pub(crate) fn timed(
        self,
        head: Instant,
        began: Option<Instant>,
        deadline: Option<Instant>,
    ) -> Self {
        Self {
            ran: began.map(|began| head.saturating_duration_since(began).into()),
            left: deadline.map(|at| at.saturating_duration_since(head).into()),
            ..self
        }
    }

    /// The instant at which the call began.
    pub(crate) fn began(&self, end: &End) -> Option<Instant> {
        end.head?.checked_sub(self.ran?.into())
    }

    /// The deadline of the caller.
    pub(crate) fn deadline(&self, end: &End) -> Option<Instant> {
        end.head?.checked_add(self.left?.into())
    }

    pub(super) fn forget_deadline(&mut self) {
        self.left = None;
    }
}

/// One admission that a response holds. Dropped unsettled, it is settled as one whose body was
/// dropped: a waker that panics must not cost the accounts after it their settlement.
pub(super) struct Entry {
    account: Option<Arc<dyn Account>>,
    stamp: Stamp,
}

impl Entry {
    pub(super) const EMPTY: Self = Self { account: None, stamp: Stamp::new(0, None) };

    pub(super) fn new(account: Arc<dyn Account>, stamp: Stamp) -> Self {
        Self { account: Some(account), stamp }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.account.is_none()
    }

    pub(super) fn stamp_mut(&mut self) -> &mut Stamp {
        &mut self.stamp
    }

    #[inline]
    pub(super) fn settle(&mut self, end: &End) {
        if let Some(account) = self.account.take() {
            account.settle(self.stamp, end);
        }
    }
}

impl Drop for Entry {
    #[inline]
    fn drop(&mut self) {
        let (how, waited) = (How::DroppedWhileReading, Duration::ZERO);
        self.settle(&End { how, waited, head: None });
    }
}
