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

/// The times of a call to an endpoint, and what is known of its result.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// The time that the call took to its result, with what is known of it in the lowest two bits.
    word: u64,
    /// The time of the result, in nanoseconds from an origin that the endpoint knows.
    now: u64,
}

impl Measured {
    /// `took` and `now` are in nanoseconds.
    #[inline]
    pub(crate) fn new(took: u64, now: u64, known: Known) -> Self {
        Self { word: took.min(u64::MAX >> 4) << 2 | known as u64, now }
    }

    /// Returns the stamp of an admission with these times. It has no lease, so that the time of the
    /// result is in that place.
    #[inline]
    pub(crate) fn stamp(self) -> Stamp {
        Stamp::new(self.word, NonZeroU64::new(self.now))
    }

    /// Returns the times of the admission that has this stamp.
    #[inline]
    pub(crate) fn of(stamp: Stamp) -> Self {
        Self { word: stamp.word(), now: stamp.lease.map_or(0, NonZeroU64::get) }
    }

    /// Returns the time that the call took to its result, in nanoseconds.
    #[inline]
    pub(crate) fn took(self) -> u64 {
        self.word >> 2
    }

    /// Returns the time of the result.
    #[inline]
    pub(crate) fn now(self) -> u64 {
        self.now
    }

    fn duration(self) -> Duration {
        Duration::from_nanos(self.took())
    }

    #[inline]
    pub(crate) fn known(self) -> Known {
        match self.word & 3 {
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
    pub(super) measured: Measured,
    /// The short number of the endpoint.
    pub(super) endpoint: u16,
    /// The call that was part of it, if the service of the endpoint has endpoints too.
    pub(super) inner: Option<Box<Self>>,
}

impl EndedCall {
    #[inline]
    pub(crate) fn new(account: Arc<dyn Account>, measured: Measured, endpoint: u16) -> Self {
        Self { account: Some(account), measured, endpoint, inner: None }
    }

    pub(super) fn has_result(&self) -> bool {
        self.measured.known() != Known::Dropped
    }

    /// Returns `true` if the endpoint [is relieved](Account::is_relieved) of the calls to come.
    pub(super) fn is_relieved(&self) -> bool {
        self.account.as_ref().is_some_and(|it| it.is_relieved())
            || self.inner.as_ref().is_some_and(|inner| inner.is_relieved())
    }

    /// Notes that the call ran for longer, and ended without a result.
    #[cfg(feature = "http")]
    pub(super) fn ran_on(&mut self, longer: Duration) {
        if let Some(inner) = &mut self.inner {
            inner.ran_on(longer);
        }
        let (longer, Measured { now, .. }) = (super::clock::nanos(longer), self.measured);
        let took = self.measured.took().saturating_add(longer);
        self.measured = Measured::new(took, now.saturating_add(longer), Known::Dropped);
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
        if let Some(inner) = self.inner.take() {
            inner.settle(outcome, result, deadline, own_limit);
        }
        let has_timed_out = outcome == Outcome::Failure(Fault::TimedOut);
        match result.err().and_then(CarryRejection::rejection) {
            // A layer has dropped the call, and the result is another one.
            None if self.measured.known() == Known::Dropped && !has_timed_out => {}
            // The limit also covers what was before the call.
            Some(Rejection::TimedOut(it)) if self.measured.duration() < it.limit() / 2 => {}
            None if has_timed_out && self.is_hurried(deadline, own_limit) => self.cut(),
            _ => self.end(How::Complete(outcome, None)),
        }
    }

    /// Returns `true` if the service reported a timeout only because its caller's time was over.
    #[cold]
    fn is_hurried(&self, deadline: Option<Instant>, own_limit: Option<Duration>) -> bool {
        let began = Instant::now().checked_sub(self.measured.duration());
        let time = deadline.zip(began).map(|(end, began)| end.saturating_duration_since(began));
        time.is_some_and(|time| !is_own(time, own_limit)) && was_cut_short(began, deadline)
    }

    /// Settles a call that was cut by its caller's deadline.
    pub(crate) fn cut(mut self) {
        if let Some(inner) = self.inner.take() {
            inner.cut();
        }
        self.measured = Measured::new(self.measured.took(), self.measured.now, Known::Dropped);
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
        if let Some(inner) = self.inner.take() {
            inner.hold(end, deadline, own_limit);
        }
        if self.measured.known() == Known::Dropped {
            // A layer has dropped the call, and the response is another one.
            return;
        }
        let Some(account) = self.account.take() else { return };
        let (head, took) = (end.head(), self.measured.duration());
        let left = deadline.map(|deadline| deadline.saturating_duration_since(head));
        let own = left.is_some_and(|left| is_own(left.saturating_add(took), own_limit));
        end.hold(account, self.measured.stamp().timed(took, left, own));
    }

    #[inline]
    fn end(&mut self, how: How) {
        if let Some(account) = self.account.take() {
            account.settle(self.measured.stamp(), &End::at_head(how));
        }
    }
}

impl Drop for EndedCall {
    fn drop(&mut self) {
        self.end(self.measured.known().how());
    }
}
