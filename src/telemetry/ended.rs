//! The ways in which a call or an attempt ends.

use tracing::Span;

use super::{event::CallOutcome, field};

/// The way in which a call or an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Success,
    /// A layer gave the response.
    Degraded,
    /// A failure of a call, with any fault.
    Failure,
    Ignored,
    Transient,
    TimedOut,
    Overloaded,
    InProgress,
    Permanent,
    /// A layer rejected it, or a timeout ended the call.
    Rejected,
    /// Its caller dropped it.
    Cancelled,
    /// It was dropped at or after its deadline.
    Cut,
    Panicked,
}

impl Ended {
    /// Returns the outcome as numbers tell it. `error_type` is the cause of a failure.
    #[inline]
    pub(super) fn outcome(self, error_type: Option<&'static str>) -> CallOutcome {
        match self {
            Self::Success => CallOutcome::Success,
            Self::Degraded => CallOutcome::Degraded,
            // A response that says nothing about the service is what its caller asked for.
            Self::Ignored if error_type.is_none() => CallOutcome::Success,
            Self::Rejected => CallOutcome::Rejected,
            Self::Cancelled => CallOutcome::Cancelled,
            _ => CallOutcome::Failure,
        }
    }

    /// Returns the value of the field.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Degraded => "degraded",
            Self::Failure => "failure",
            Self::Ignored => "ignored",
            Self::Transient => "transient",
            Self::TimedOut => "timed_out",
            Self::Overloaded => "overloaded",
            Self::InProgress => "in_progress",
            Self::Permanent => "permanent",
            Self::Rejected => "rejected",
            Self::Cancelled => "cancelled",
            Self::Cut => "cut",
            Self::Panicked => "panicked",
        }
    }
}

/// Records the end of a call or an attempt in its span. `error_type` is the cause of a failure.
pub(super) fn record(span: &Span, ended: Ended, error_type: Option<&'static str>) {
    span.record(field::OUTCOME, ended.as_str());
    if let Some(error_type) = error_type {
        span.record(field::ERROR_TYPE, error_type).record(field::STATUS, "ERROR");
    }
}
