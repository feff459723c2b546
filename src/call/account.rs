//! Accounts that are settled at the end of a response.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::patience::was_cut_short;
use crate::{Outcome, error::Nanos};

/// A layer's record of its calls, settled at the end of each response that streams.
///
/// The state that a layer shares with its services implements it. A streaming response then costs
/// the layer only one more reference to that state.
pub(crate) trait Account: Send + Sync {
    /// Settles the admission that `stamp` identifies.
    fn settle(&self, stamp: Stamp, end: &End);

    /// Returns `true` if a failure says nothing of the calls to come, because others get them.
    ///
    /// Only an endpoint can know that.
    fn is_relieved(&self) -> bool {
        false
    }
}

/// The end of a response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) how: How,
    /// The total time that the caller has waited in reads since the head.
    pub(crate) waited: Duration,
    /// The instant at which the head arrived, if an account asked for it.
    pub(super) head: Option<Instant>,
}

impl End {
    /// Returns the end of a call without a response that continues.
    pub(crate) fn at_head(how: How) -> Self {
        Self { how, waited: Duration::ZERO, head: None }
    }

    /// Returns `true` if no account has asked for the head, as at the end of a call without a body.
    #[inline]
    pub(crate) fn is_at_head(&self) -> bool {
        self.head.is_none()
    }

    /// Returns the time since the head arrived, or zero if no account asked for it.
    pub(crate) fn since_head(&self) -> Duration {
        self.head.map_or(Duration::ZERO, |head| head.elapsed())
    }

    /// Returns the time since the head in which the caller did not read.
    fn unread(&self) -> Duration {
        self.since_head().saturating_sub(self.waited)
    }
}

/// The way in which a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// The response ran to its end, with this outcome and, for a failure, its cause.
    Complete(Outcome, Option<&'static str>),
    /// The body was dropped while no read was pending.
    DroppedBetweenReads,
    /// The body was dropped while a read had been pending for [`End::waited`].
    DroppedWhileReading,
    /// The body panicked.
    Panicked,
}

/// The identity of an admission, with the times that its account needs at the end.
///
/// Each time is stored in one word, as the distance from the head, because `CallEnd` is moved with
/// every response.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stamp {
    word: u64,
    /// The lease of a probe, or what else the account knows by it.
    pub(crate) lease: Option<NonZeroU64>,
    ran: Option<Nanos>,
    left: Option<Nanos>,
}

/// The bit of the word that says that the deadline is the limit of the stack itself.
const OWN: u64 = 1 << 63;

impl Stamp {
    /// Creates a stamp. `word` has 63 bits.
    pub(crate) const fn new(word: u64, lease: Option<NonZeroU64>) -> Self {
        Self { word, lease, ran: None, left: None }
    }

    /// Returns the word.
    pub(crate) fn word(&self) -> u64 {
        self.word & !OWN
    }

    /// Adds the time that the call ran until the head, and the time then left until its deadline.
    ///
    /// `own` says that the deadline is the limit of the stack itself.
    pub(crate) fn timed(self, ran: Duration, left: Option<Duration>, own: bool) -> Self {
        let word = self.word | if own { OWN } else { 0 };
        Self { word, ran: Some(ran.into()), left: left.map(Nanos::from), ..self }
    }

    /// Returns the instant at which the call began.
    pub(crate) fn began(&self, end: &End) -> Option<Instant> {
        end.head?.checked_sub(self.ran?.into())
    }

    /// Returns the instant at which the call would have begun if its caller had always been
    /// reading.
    ///
    /// Time in which the caller did not read is not time of the service.
    pub(crate) fn began_reading(&self, end: &End) -> Option<Instant> {
        self.began(end).and_then(|began| began.checked_add(end.unread()))
    }

    /// Returns the deadline.
    pub(crate) fn deadline(&self, end: &End) -> Option<Instant> {
        end.head?.checked_add(self.left?.into())
    }

    /// Returns `true` if a timeout at this end says nothing about the service.
    ///
    /// The deadline is the caller's, or the caller did not read for half of the stack's own limit.
    pub(crate) fn was_cut_by_caller(&self, end: &End) -> bool {
        let deadline = self.deadline(end);
        if !was_cut_short(self.began_reading(end), deadline) {
            return false;
        }
        let (Some(began), Some(deadline)) = (self.began(end), deadline) else { return true };
        let whole = deadline.saturating_duration_since(began);
        self.word & OWN == 0 || end.unread() > whole / 2
    }

    pub(super) fn forget_deadline(&mut self) {
        self.left = None;
    }
}

/// One admission that a response holds.
///
/// An entry that is dropped before it is settled is settled as a dropped body. If a waker panics
/// while an account is settled, the later accounts are therefore still settled.
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
        self.settle(&End::at_head(How::DroppedWhileReading));
    }
}
