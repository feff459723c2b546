//! The rules, one sentence each.

use std::fmt;

/// A rule of the contract that can be checked from outside.
///
/// Its `Display` is its sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// Rule 1.
    CallsTheReadied,
    /// Rule 2, for one instance.
    ReadyOnce,
    /// Rule 2, for clones.
    ClonesStartUnready,
    /// Rule 3.
    FreesOnDrop,
    /// Rule 4, towards the caller. Only [`check_rejecting`](super::Contract::check_rejecting) checks it.
    RejectsInCall,
    /// Rule 4, towards the siblings. Only [`check_rejecting`](super::Contract::check_rejecting) checks it.
    RejectsBeforeInner,
    /// Rule 5, for a service declared [`always_ready`](super::Contract::always_ready).
    WaitsEmptyHanded,
    /// Rule 6.
    HoldsNothingIdle,
    /// Rule 7, `call`.
    CallDoesNotWait,
    /// Rule 7, the order of polls.
    ResponseBeatsTimer,
    /// Rule 7, timers.
    NeedsNoRuntime,
    /// The error type and the error are the inner service's.
    ErrorsPassThrough,
    /// The same for readiness.
    ReadinessErrorsPassOnce,
    /// Wake-ups.
    WakesWaiters,
    /// Panics.
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

    /// The rule, in a sentence.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::CallsTheReadied => {
                "only the inner instance that was polled ready is called, on later attempts too"
            }
            Self::ReadyOnce => {
                "one Ready reserves once, stays Ready until it is spent, and buys one call"
            }
            Self::ClonesStartUnready => "a clone of a ready service is not ready",
            Self::FreesOnDrop => {
                "what is reserved is freed by dropping the readied service, the future unpolled, \
                 or the future pending"
            }
            Self::RejectsInCall => {
                "a rejection is an error of the call and comes at once; \
                 until it is spent the service says Ready"
            }
            Self::RejectsBeforeInner => {
                "a rejection neither polls, calls nor reserves the inner service, \
                 so siblings can go on"
            }
            Self::WaitsEmptyHanded => {
                "a service that is always ready reserves nothing before its future is polled"
            }
            Self::HoldsNothingIdle => "nothing is held between attempts, nor after the answer",
            Self::CallDoesNotWait => {
                "`call` polls nothing, and an answer that is ready comes at the first poll"
            }
            Self::ResponseBeatsTimer => {
                "an answer that is there is returned, however late the poll"
            }
            Self::NeedsNoRuntime => "no timer and no task is needed unless something waits",
            Self::ErrorsPassThrough => "an error of the inner service comes out as it is",
            Self::ReadinessErrorsPassOnce => {
                "an error of the inner readiness comes out once, as it is, and ends that instance"
            }
            Self::WakesWaiters => {
                "who waits is woken when it can go on, not before, in the task that polled last"
            }
            Self::SurvivesPanics => {
                "a panic of the inner service comes out, \
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
