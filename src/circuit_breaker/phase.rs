//! The states of a breaker, and the one word that says which it is in.

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

/// A state and the number of changes that led to it, in one word: what a call reads to be let
/// through, and what tells a late result from one that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Phase(u64);

const CLOSED: u64 = 0;
const DISABLED: u64 = 1;
const OPEN: u64 = 2;
const HALF_OPEN: u64 = 3;
const FORCED_OPEN: u64 = 4;

impl Phase {
    /// The phase as a word that a response can hold.
    pub(super) fn word(self) -> u64 {
        self.0
    }

    pub(super) fn from_word(word: u64) -> Self {
        Self(word)
    }

    pub(super) fn state(self) -> State {
        match self.0 & 0b111 {
            CLOSED => State::Closed,
            DISABLED => State::Disabled,
            OPEN => State::Open,
            HALF_OPEN => State::HalfOpen,
            _ => State::ForcedOpen,
        }
    }

    /// Whether every call is let through.
    #[inline]
    pub(super) fn lets_all_through(self) -> bool {
        self.0 & 0b111 <= DISABLED
    }

    #[inline]
    pub(super) fn is_closed(self) -> bool {
        self.0 & 0b111 == CLOSED
    }

    #[inline]
    pub(super) fn generation(self) -> u64 {
        self.0 >> 3
    }

    pub(super) fn next(self, state: State) -> Self {
        let state = match state {
            State::Closed => CLOSED,
            State::Disabled => DISABLED,
            State::Open => OPEN,
            State::HalfOpen => HALF_OPEN,
            State::ForcedOpen => FORCED_OPEN,
        };
        Self((self.generation() + 1) << 3 | state)
    }
}
