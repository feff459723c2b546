//! What a scripted service does next, where it can panic, and what must not be done to it.

use std::time::Duration;

/// What a [`Flaky`](super::Flaky) service does next.
///
/// The readiness steps ([`Unready`](Self::Unready), [`FailReadiness`](Self::FailReadiness) and
/// [`PanicInReadiness`](Self::PanicInReadiness)) are taken by the next instance that is polled ready. All others are
/// taken by the next call.
#[derive(Debug)]
#[non_exhaustive]
pub enum Step<Res, E> {
    /// Answers at the first poll.
    Respond(Result<Res, E>),
    /// Answers once the time has passed, counted from `call`, which must then run inside a tokio runtime.
    RespondAfter(Duration, Result<Res, E>),
    /// Answers after it was pending for so many polls. It wakes its task at each, so it needs no clock.
    RespondAfterPolls(u32, Result<Res, E>),
    /// Answers once [`FlakyHandle::release`](super::FlakyHandle::release) is called.
    RespondWhenReleased(Result<Res, E>),
    /// Never answers.
    Hang,
    /// Panics in `call`.
    PanicInCall,
    /// Returns a future that panics when it is polled.
    PanicInPoll,
    /// Makes every instance that is not yet ready wait for
    /// [`FlakyHandle::set_ready`](super::FlakyHandle::set_ready).
    Unready,
    /// Fails in `poll_ready`, which is the end of that instance.
    FailReadiness(E),
    /// Panics in `poll_ready`.
    PanicInReadiness,
}

impl<Res, E> Step<Res, E> {
    pub(super) const fn is_readiness(&self) -> bool {
        matches!(self, Self::Unready | Self::FailReadiness(_) | Self::PanicInReadiness)
    }
}

/// Where an inner service can panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicPoint {
    /// In `poll_ready`.
    Readiness,
    /// In `call`.
    Call,
    /// In the poll of the future.
    Poll,
}

impl PanicPoint {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Readiness, Self::Call, Self::Poll];

    /// The step that panics there.
    #[must_use]
    pub const fn step<Res, E>(self) -> Step<Res, E> {
        match self {
            Self::Readiness => Step::PanicInReadiness,
            Self::Call => Step::PanicInCall,
            Self::Poll => Step::PanicInPoll,
        }
    }
}

/// What a caller did to a [`Flaky`](super::Flaky) service that tower forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// Called an instance that had not said it was ready since its last call.
    CalledUnready,
    /// Used an instance again whose `poll_ready` had failed.
    UsedAfterReadinessError,
    /// Polled a future again that had answered.
    PolledAfterAnswer,
}
