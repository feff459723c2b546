//! The states of a breaker, and why it leaves them.

/// The state of a circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Calls go through and are counted.
    Closed,
    /// Calls are refused until the open time is over.
    Open,
    /// A few calls go through as probes; the others are refused.
    HalfOpen,
    /// An operator holds the breaker open.
    ForcedOpen,
    /// An operator has taken the breaker out: calls go through and are not counted.
    Disabled,
}

/// Why a breaker opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TripReason {
    /// Too large a share of the calls failed.
    FailureRate,
    /// Too large a share of the calls was slow.
    SlowCallRate,
    /// Too many calls failed one after the other.
    ConsecutiveFailures,
    /// The probes of a half-open breaker failed.
    Probes,
    /// An operator opened it.
    Forced,
}

impl TripReason {
    /// A short name for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FailureRate => "failure_rate",
            Self::SlowCallRate => "slow_call_rate",
            Self::ConsecutiveFailures => "consecutive_failures",
            Self::Probes => "probes_failed",
            Self::Forced => "forced",
        }
    }
}
