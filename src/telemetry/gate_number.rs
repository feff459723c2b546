//! The numbers of the gates that events pass.

use super::event::Event;
use crate::{Outcome, Rejection, call::degraded::Reason};

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
    ["retries", "budget", "deadline", "hint_over_cap", "stop_hint", "rejected"];

/// The first gate of the reasons for which a fallback is used. Faults have those of outcomes.
const USES: usize = ENDS + REASONS.len() + 1;
/// The gate of fallbacks that failed.
const FAILED: usize = USES + REJECTIONS + 1;

/// The number of gates that a layer of any kind can have.
pub(super) const GATES: usize = FAILED + 1;

impl Event<'_> {
    /// Returns the number of the gate that its lines in the log pass, or `None` if all lines pass.
    ///
    /// Two events of one kind of layer have the same number only if they have the same reason.
    pub(super) fn gate(&self) -> Option<usize> {
        match *self {
            Self::Rejected { rejection } => Some(rejection.reason_index()),
            Self::StoreFailed { .. } => Some(STORE),
            // A cache has no store that fails, and its rejections are few.
            Self::StaleGiven { .. } => Some(STORE),
            Self::ResponseNotKept { .. } => Some(OUTCOMES),
            Self::Retrying { outcome, .. } => Some(OUTCOMES + outcome.fault_index()),
            Self::RetriesExhausted { reason, .. } => {
                let place = REASONS.iter().position(|known| *known == reason);
                Some(ENDS + place.unwrap_or(REASONS.len()))
            }
            Self::FallbackUsed { reason } => Some(match reason {
                Reason::Failed(fault) => OUTCOMES + Outcome::Failure(*fault).fault_index(),
                Reason::Rejected(rejection) => USES + rejection.reason_index(),
                Reason::Off => USES + REJECTIONS,
            }),
            Self::FallbackFailed { .. } => Some(FAILED),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
        let (delay, error_type) = (Duration::ZERO, "503");
        let retrying =
            outcomes.map(|outcome| Event::Retrying { attempt: 1, outcome, error_type, delay });
        let outcome = Outcome::Ignored;
        let reasons = REASONS.into_iter().chain(["another"]);
        let ends = reasons.map(|reason| Event::RetriesExhausted {
            attempts: 1,
            outcome,
            error_type,
            reason,
        });
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
