use std::{fmt, time::Duration};

use super::kind::Kind;
use crate::{Outcome, Rejection};

/// The layer that an [`Event`] is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    layer: &'a str,
    kind: Kind,
}

impl<'a> Source<'a> {
    pub(super) fn new(layer: &'a str, kind: Kind) -> Self {
        Self { layer, kind }
    }

    /// Returns the name of the layer.
    pub(crate) fn layer(&self) -> &'a str {
        self.layer
    }

    /// Returns the kind of the layer.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }
}

/// Something that a layer did and that is worth saying.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event<'a> {
    /// The layer rejected or ended a call.
    Rejected { rejection: &'a Rejection },
    /// The retry sends the request again after `delay`. `attempt` has failed.
    Retrying { attempt: u32, outcome: Outcome, delay: Duration },
    /// The retry has no retries left for the call.
    RetriesExhausted { attempts: u32, outcome: Outcome, reason: &'static str },
    /// The retry does not retry this call, although it has retries left.
    NotRetried { attempt: u32, outcome: Outcome, reason: &'static str },
    /// A call waits in the queue of the bulkhead, which now has `queued` calls.
    CallQueued { queued: u32 },
    /// The limit of the bulkhead was changed.
    BulkheadResized { limit: u32 },
    /// The breaker opened, for `open_for` unless it was opened by hand.
    CircuitOpened { key: Option<&'a str>, reason: &'static str, open_for: Option<Duration> },
    /// The open time is over. The breaker admits `probes` probes.
    CircuitHalfOpen { key: Option<&'a str>, probes: u32 },
    /// The breaker closed.
    CircuitClosed { key: Option<&'a str> },
    /// The breaker was disabled by hand.
    CircuitDisabled { key: Option<&'a str> },
    /// A step of the idempotency store failed.
    StoreFailed { error: fmt::Arguments<'a>, took: Duration },
    /// The idempotency store, or a share of it, is almost full.
    StoreAlmostFull { of: &'static str, percent: u64 },
    /// An idempotent operation may have run, and its outcome is not known.
    OperationUnknown { key: fmt::Arguments<'a>, fence: u64 },
    /// The lease of a run ended before the run.
    LeaseLost { key: fmt::Arguments<'a> },
}

/// The number of rejections of one kind of layer, whose gates come first.
const REJECTIONS: usize = Rejection::REASONS;
/// The gate of failures of the store, after all rejections.
const STORE: usize = REJECTIONS;
/// The first gate of the outcomes after which a call is retried.
const OUTCOMES: usize = STORE + 1;
/// The first gate of the reasons for which retries end.
const ENDS: usize = OUTCOMES + Outcome::FAULTS;
/// The reasons for which retries end. Another reason has the gate after these.
const REASONS: [&str; 6] =
    ["retries", "budget", "deadline", "hint over cap", "stop hint", "rejected"];

/// The number of gates that a layer of any kind can have.
pub(super) const GATES: usize = ENDS + REASONS.len() + 1;

impl Event<'_> {
    /// Returns the number of the gate that its lines in the log pass, or `None` if all lines pass.
    ///
    /// Two events of one kind of layer have the same number only if they have the same reason.
    pub(super) fn gate(&self) -> Option<usize> {
        match *self {
            Self::Rejected { rejection } => Some(rejection.reason_index()),
            Self::StoreFailed { .. } => Some(STORE),
            Self::Retrying { outcome, .. } => Some(OUTCOMES + outcome.fault_index()),
            Self::RetriesExhausted { reason, .. } => {
                let place = REASONS.iter().position(|known| *known == reason);
                Some(ENDS + place.unwrap_or(REASONS.len()))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Fault;

    #[test]
    fn two_reasons_of_a_retry_never_share_a_gate() {
        let faults = [
            Fault::Transient,
            Fault::TimedOut,
            Fault::Overloaded { retry_after: None },
            Fault::InProgress { retry_after: None },
            Fault::Permanent,
        ];
        let outcomes = faults.map(Outcome::Failure).into_iter().chain([Outcome::Ignored]);
        let delay = Duration::ZERO;
        let retrying = outcomes.map(|outcome| Event::Retrying { attempt: 1, outcome, delay });
        let outcome = Outcome::Ignored;
        let reasons = REASONS.into_iter().chain(["another"]);
        let ends = reasons.map(|reason| Event::RetriesExhausted { attempts: 1, outcome, reason });
        let rejection = crate::error::NotReady::new("retry", delay).into();
        let rejected = Event::Rejected { rejection: &rejection };
        let mut gates: Vec<_> =
            retrying.chain(ends).chain([rejected]).filter_map(|event| event.gate()).collect();
        gates.sort_unstable();
        let count = gates.len();
        gates.dedup();
        assert_eq!((count, gates.len()), (14, 14));
        assert!(gates.iter().all(|gate| *gate < GATES));
    }
}
