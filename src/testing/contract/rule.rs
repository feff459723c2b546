//! The rules of the contract.

use std::fmt;

/// A rule of the contract that can be checked from outside.
///
/// `Display` writes its [sentence](Self::sentence).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// Calls only the inner instance that was polled ready, even on later attempts.
    CallsTheReadied,
    /// Reserves once for each `Ready`, stays ready until `call`, and admits one call for it.
    ReadyOnce,
    /// Does not pass its readiness on to a clone.
    ClonesStartUnready,
    /// Frees its reservation when the service or the future that holds it is dropped.
    FreesOnDrop,
    /// Reports `Ready` before a rejection, and rejects at the first poll of the call.
    ///
    /// Only [`check_rejecting`](super::Contract::check_rejecting) checks this rule.
    RejectsInCall,
    /// Rejects without polling, calling or reserving the inner service.
    ///
    /// Only [`check_rejecting`](super::Contract::check_rejecting) checks this rule.
    RejectsBeforeInner,
    /// Reserves nothing before its future is polled.
    ///
    /// Applies only to a service declared [`always_ready`](super::Contract::always_ready).
    WaitsEmptyHanded,
    /// Holds nothing between attempts, and nothing after the response.
    HoldsNothingIdle,
    /// Polls nothing in `call`, and returns a ready response at the first poll.
    CallDoesNotWait,
    /// Returns a ready response however late it is polled, even after a timer has elapsed.
    ResponseBeatsTimer,
    /// Uses no timer and no task unless it must wait.
    NeedsNoRuntime,
    /// Returns an error of the inner service unchanged.
    ErrorsPassThrough,
    /// Returns an error of the inner readiness once, unchanged, and stops using that instance.
    ReadinessErrorsPassOnce,
    /// Wakes the task that polled last, when it can make progress and not before.
    WakesWaiters,
    /// Propagates a panic of the inner service, frees its reservation, and leaves siblings working.
    SurvivesPanics,
}

impl Rule {
    /// The rules that [`check`](super::Contract::check) checks.
    pub const GENERAL: [Self; 13] = [
        Self::CallsTheReadied,
        Self::ReadyOnce,
        Self::ClonesStartUnready,
        Self::FreesOnDrop,
        Self::WaitsEmptyHanded,
        Self::HoldsNothingIdle,
        Self::CallDoesNotWait,
        Self::ResponseBeatsTimer,
        Self::NeedsNoRuntime,
        Self::ErrorsPassThrough,
        Self::ReadinessErrorsPassOnce,
        Self::WakesWaiters,
        Self::SurvivesPanics,
    ];

    /// The rules that [`check_rejecting`](super::Contract::check_rejecting) checks.
    pub const REJECTING: [Self; 2] = [Self::RejectsInCall, Self::RejectsBeforeInner];

    /// Returns the rule as a sentence.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::CallsTheReadied => {
                "only the inner instance that was polled ready is called, even on later attempts"
            }
            Self::ReadyOnce => {
                "one Ready reserves once, lasts until the next `call`, and admits one call"
            }
            Self::ClonesStartUnready => "a clone of a ready service is not ready",
            Self::FreesOnDrop => {
                "dropping the readied service, the unpolled future or the pending future \
                 frees its reservation"
            }
            Self::RejectsInCall => {
                "a rejection is an error at the first poll of the call, \
                 and the service reports Ready until then"
            }
            Self::RejectsBeforeInner => {
                "a rejection neither polls, calls nor reserves the inner service, \
                 and does not block siblings"
            }
            Self::WaitsEmptyHanded => {
                "a service that is always ready reserves nothing before its future is polled"
            }
            Self::HoldsNothingIdle => "nothing is held between attempts or after the response",
            Self::CallDoesNotWait => {
                "`call` polls nothing, and a response that is ready is returned at the first poll"
            }
            Self::ResponseBeatsTimer => {
                "a response that is ready is returned, however late the poll"
            }
            Self::NeedsNoRuntime => "no timer and no task is needed unless the call waits",
            Self::ErrorsPassThrough => "an error of the inner service is returned unchanged",
            Self::ReadinessErrorsPassOnce => {
                "an error of the inner readiness is returned once, unchanged, and ends the instance"
            }
            Self::WakesWaiters => {
                "the task that polled last is woken when it can make progress, and not before"
            }
            Self::SurvivesPanics => {
                "a panic of the inner service is propagated, \
                 and leaves nothing reserved and siblings working"
            }
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence())
    }
}
