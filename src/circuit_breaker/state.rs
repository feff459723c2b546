//! The states of a breaker, and the reasons to open.

/// The state of a circuit breaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Calls are admitted and counted.
    #[default]
    Closed,
    /// Calls are rejected until the open time has elapsed.
    Open,
    /// A few calls are admitted as probes. The others are rejected.
    HalfOpen,
    /// The breaker is held open by hand.
    ForcedOpen,
    /// The breaker is disabled by hand. Calls are admitted and not counted.
    Disabled,
}

impl State {
    /// All values.
    pub(super) const ALL: [Self; 5] =
        [Self::Closed, Self::Open, Self::HalfOpen, Self::ForcedOpen, Self::Disabled];

    /// Returns a short name for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::ForcedOpen => "forced_open",
            Self::Disabled => "disabled",
        }
    }
}

/// The reason why a breaker opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TripReason {
    /// The share of failed calls was too large.
    FailureRate,
    /// The share of slow calls was too large.
    SlowCallRate,
    /// Too many consecutive calls failed.
    ConsecutiveFailures,
    /// The probes of a half-open breaker failed.
    Probes,
    /// The breaker was opened by hand.
    Forced,
}

impl TripReason {
    /// Returns a short name for logs and metrics.
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
