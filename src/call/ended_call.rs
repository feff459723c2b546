//! The end of a call to one of several endpoints.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    account::{Account, End, How, Stamp},
    completion::CallEnd,
    patience::{is_own, was_cut_short},
};
use crate::{CarryRejection, Fault, Outcome, Rejection};

/// The result of a call to an endpoint, as far as the endpoint knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// The call was dropped without a result.
    Dropped,
    /// The response is good, at least its head.
    Good,
    Failed,
    /// The result says nothing.
    Ignored,
}

impl Known {
    #[inline]
    pub(crate) fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Ignored => Self::Ignored,
            outcome if outcome.is_response() => Self::Good,
            _ => Self::Failed,
        }
    }

    /// Returns the end of a call that nobody else settles.
    #[inline]
    fn how(self) -> How {
        match self {
            Self::Dropped => How::DroppedWhileReading,
            Self::Good => How::Complete(Outcome::Success, None),
            Self::Failed => How::Complete(Outcome::Failure(Fault::Transient), None),
            Self::Ignored => How::Complete(Outcome::Ignored, None),
        }
    }
}

/// The time that a call to an endpoint took to its result, in one word with what is known of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Took(u64);

impl Took {
    /// `took` is in nanoseconds.
    #[inline]
    pub(crate) fn new(took: u64, known: Known) -> Self {
        Self(took.min(u64::MAX >> 4) << 2 | known as u64)
    }

    /// Returns the stamp of an admission that took this time. `at` is the time at which it ended.
    #[inline]
    pub(crate) fn stamp(self, at: u64) -> Stamp {
        Stamp::new(self.0, NonZeroU64::new(at))
    }

    /// Returns the time of the admission that has this stamp.
    #[inline]
    pub(crate) fn of(stamp: Stamp) -> Self {
        Self(stamp.word())
    }

    /// Returns the time in nanoseconds.
    #[inline]
    pub(crate) fn nanos(self) -> u64 {
        self.0 >> 2
    }

    fn duration(self) -> Duration {
        Duration::from_nanos(self.nanos())
    }

    #[inline]
    pub(crate) fn known(self) -> Known {
        match self.0 & 3 {
            0 => Known::Dropped,
            1 => Known::Good,
            2 => Known::Failed,
            _ => Known::Ignored,
        }
    }
}

/// The end of a call to an endpoint. It is settled as the endpoint knows it if it is dropped.
pub(crate) struct EndedCall {
    account: Option<Arc<dyn Account>>,
    pub(super) took: Took,
    /// The time of the result, in nanoseconds from an origin that the account knows.
    at: u64,
    /// The short number of the endpoint.
    pub(super) endpoint: u16,
}

impl EndedCall {
    #[inline]
    pub(crate) fn new(account: Arc<dyn Account>, took: Took, at: u64, endpoint: u16) -> Self {
        Self { account: Some(account), took, at, endpoint }
    }

    /// Sets what the endpoint knows of the result.
    #[inline]
    pub(crate) fn set_known(&mut self, known: Known) {
        self.took = Took::new(self.took.nanos(), known);
    }

    /// Notes that the call ran for longer, and ended without a result.
    #[cfg(feature = "http")]
    pub(super) fn ran_on(&mut self, longer: Duration) {
        let longer = super::clock::nanos(longer);
        self.took = Took::new(self.took.nanos().saturating_add(longer), Known::Dropped);
        self.at = self.at.saturating_add(longer);
    }

    /// Settles the call with the outcome of a part, which has no body to wait for.
    ///
    /// `deadline` is that of the caller, and `own_limit` that of the stack.
    pub(crate) fn settle<T, E>(
        mut self,
        outcome: Outcome,
        result: Result<&T, &E>,
        deadline: Option<Instant>,
        own_limit: Option<Duration>,
    ) where
        E: CarryRejection,
    {
        match result.err().and_then(CarryRejection::rejection) {
            // The limit also covers what was before the call.
            Some(Rejection::TimedOut(it)) if self.took.duration() < it.limit() / 2 => {}
            None if outcome == Outcome::Failure(Fault::TimedOut)
                && self.is_hurried(deadline, own_limit) =>
            {
                self.cut();
            }
            _ => self.end(How::Complete(outcome, None)),
        }
    }

    /// Returns `true` if the service reported a timeout only because its caller's time was over.
    #[cold]
    fn is_hurried(&self, deadline: Option<Instant>, own_limit: Option<Duration>) -> bool {
        let began = Instant::now().checked_sub(self.took.duration());
        let time = deadline.zip(began).map(|(end, began)| end.saturating_duration_since(began));
        time.is_some_and(|time| !is_own(time, own_limit)) && was_cut_short(began, deadline)
    }

    /// Settles a call that was cut by its caller's deadline.
    pub(crate) fn cut(mut self) {
        self.set_known(Known::Dropped);
        self.end(How::DroppedWhileReading);
    }

    /// Lets the response hold the call until its end.
    ///
    /// The arguments are those of [`settle`](Self::settle).
    pub(crate) fn hold(
        mut self,
        end: &mut CallEnd,
        deadline: Option<Instant>,
        own_limit: Option<Duration>,
    ) {
        let Some(account) = self.account.take() else { return };
        let (head, took) = (end.head(), self.took.duration());
        let left = deadline.map(|deadline| deadline.saturating_duration_since(head));
        let own = left.is_some_and(|left| is_own(left.saturating_add(took), own_limit));
        end.hold(account, self.took.stamp(self.at).timed(took, left, own));
    }

    #[inline]
    fn end(&mut self, how: How) {
        if let Some(account) = self.account.take() {
            account.settle(self.took.stamp(self.at), &End::at_head(how));
        }
    }
}

impl Drop for EndedCall {
    fn drop(&mut self) {
        self.end(self.took.known().how());
    }
}
