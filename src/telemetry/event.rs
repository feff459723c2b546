use std::{borrow::Cow, fmt, time::Duration};

use super::{
    field::{KIND, LAYER, STACK},
    kind::Kind,
    metrics::{ATTEMPT_DURATION, CALL_DURATION, Control, Instrument},
};
use crate::{Outcome, Rejection, call::degraded::Reason};

/// The layer that an [`Event`] is about.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    stack: Option<&'a str>,
    layer: &'a str,
    kind: Kind,
}

impl<'a> Source<'a> {
    pub(super) fn new(stack: Option<&'a str>, layer: &'a str, kind: Kind) -> Self {
        Self { stack, layer, kind }
    }

    /// Returns the name of the stack, or `None` for a layer outside of a stack with a name.
    ///
    /// The calls of a stack without a name have `call`.
    pub fn stack(&self) -> Option<&'a str> {
        self.stack
    }

    /// Returns the name of the layer.
    pub fn layer(&self) -> &'a str {
        self.layer
    }

    /// Returns the kind of the layer, such as `attempt_timeout`.
    pub fn kind(&self) -> &'static str {
        self.kind.as_str()
    }

    pub(super) fn layer_kind(&self) -> Kind {
        self.kind
    }

    /// Returns the attributes of a series of this layer, as in
    /// [`Series::attributes`](super::Series::attributes).
    ///
    /// `values` are those of the last attributes of the instrument. An empty one stands for none.
    pub fn attributes(
        &self,
        instrument: &'static Instrument,
        values: &[&'static str],
    ) -> Vec<(&'static str, Cow<'static, str>)> {
        let mut values = values.iter().filter(|value| !value.is_empty());
        let mut attributes = Vec::with_capacity(instrument.attributes.len());
        for attribute in instrument.attributes {
            let value: Option<Cow<'static, str>> = match *attribute {
                STACK => self.stack.map(|name| name.to_owned().into()),
                LAYER => Some(self.layer.to_owned().into()),
                KIND => Some(self.kind.as_str().into()),
                _ => values.next().map(|value| Cow::Borrowed(*value)),
            };
            attributes.extend(value.map(|value| (*attribute, value)));
        }
        attributes
    }
}

/// The end of a call or of an attempt, as its caller sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallOutcome {
    /// It succeeded.
    Success,
    /// The service failed, or a part of the call panicked.
    Failure,
    /// A layer rejected it.
    Rejected,
    /// It was dropped before its end.
    Cancelled,
    /// A layer gave a response instead of the service, such as a fallback.
    ///
    /// Only a call can be degraded. A response that its classifier takes for a failure is a
    /// [`Failure`](Self::Failure).
    Degraded,
}

impl CallOutcome {
    /// All values.
    pub(super) const ALL: [Self; 5] =
        [Self::Success, Self::Failure, Self::Rejected, Self::Cancelled, Self::Degraded];

    /// Returns the outcome as one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Rejected => "rejected",
            Self::Cancelled => "cancelled",
            Self::Degraded => "degraded",
        }
    }
}

/// Something that a layer did and that is worth saying.
///
/// Observers get [`CallEnded`](Self::CallEnded), [`AttemptEnded`](Self::AttemptEnded) and
/// [`Measured`](Self::Measured) only if they want [all](super::Interest::All) events.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The layer rejected or ended a call.
    #[non_exhaustive]
    Rejected {
        /// The rejection.
        rejection: &'a Rejection,
    },
    /// The retry sends the request again after a pause.
    #[non_exhaustive]
    Retrying {
        /// The number of the attempt that has failed.
        attempt: u32,
        /// Its outcome.
        outcome: Outcome,
        /// The cause of the failure, such as `503` or `connect`.
        error_type: &'static str,
        /// The pause.
        delay: Duration,
    },
    /// The retry has no retries left for the call.
    #[non_exhaustive]
    RetriesExhausted {
        /// The number of attempts.
        attempts: u32,
        /// The outcome of the last one.
        outcome: Outcome,
        /// The cause of the failure, such as `503` or `connect`.
        error_type: &'static str,
        /// The reason, such as `budget`.
        reason: &'static str,
    },
    /// The retry does not retry this call, whatever its retries and its budget.
    #[non_exhaustive]
    NotRetried {
        /// The number of the attempt that has failed.
        attempt: u32,
        /// Its outcome.
        outcome: Outcome,
        /// The cause of the failure, such as `503` or `connect`.
        error_type: &'static str,
        /// The reason, such as `method`.
        reason: &'static str,
    },
    /// The fallback gave the response of a call.
    #[non_exhaustive]
    FallbackUsed {
        /// The reason why the service did not respond.
        reason: &'a Reason,
    },
    /// The fallback gave no response, although it should. The call ends without it.
    #[non_exhaustive]
    FallbackFailed {
        /// The reason why the service did not respond.
        reason: &'a Reason,
        /// The cause: `error` or `response` of the other service, `limit`, `panic`, or `same_layer`
        /// if the breaker or bulkhead that rejected the call also rejected the fallback.
        cause: &'static str,
    },
    /// A call waits in the queue of the bulkhead.
    #[non_exhaustive]
    CallQueued {
        /// The number of calls in the queue.
        queued: u32,
    },
    /// The limit of the bulkhead was changed.
    #[non_exhaustive]
    BulkheadResized {
        /// The new limit.
        limit: u32,
    },
    /// The breaker opened.
    #[non_exhaustive]
    CircuitOpened {
        /// The key of a breaker by key, as its `describe_fn` describes it.
        key: Option<&'a str>,
        /// The reason, such as `failure_rate`, or `forced` if it was opened by hand.
        reason: &'static str,
        /// The time for which it stays open, or `None` if only a hand closes it.
        open_for: Option<Duration>,
    },
    /// The open time is over.
    #[non_exhaustive]
    CircuitHalfOpen {
        /// The key of a breaker by key.
        key: Option<&'a str>,
        /// The number of probes that the breaker admits.
        probes: u32,
    },
    /// The breaker closed.
    #[non_exhaustive]
    CircuitClosed {
        /// The key of a breaker by key.
        key: Option<&'a str>,
        /// The reason, which is `probes_passed` or `forced`.
        reason: &'static str,
        /// The number of calls that were rejected since it opened.
        rejected: u64,
        /// The time since it opened, with all further trips, or `None` if it was not open.
        open_for: Option<Duration>,
    },
    /// The breaker was disabled by hand.
    #[non_exhaustive]
    CircuitDisabled {
        /// The key of a breaker by key.
        key: Option<&'a str>,
    },
    /// An endpoint gets no calls any more, unless too few are left.
    #[non_exhaustive]
    EndpointOut {
        /// Its address.
        address: fmt::Arguments<'a>,
        /// The reason, which is `consecutive_failures` or `check`.
        reason: &'static str,
        /// The time for which it is ejected, or `None` if its checks decide.
        out_for: Option<Duration>,
    },
    /// An endpoint gets calls again.
    #[non_exhaustive]
    EndpointBack {
        /// Its address.
        address: fmt::Arguments<'a>,
        /// The reason, which is `ejection_ended` or `check`.
        reason: &'static str,
    },
    /// The last usable endpoint went out or was removed.
    ///
    /// All endpoints that are left get calls until one of them is usable.
    #[non_exhaustive]
    NoEndpointUsable {
        /// The number of endpoints.
        endpoints: usize,
    },
    /// Somebody changed the layer through the registry.
    #[non_exhaustive]
    Controlled {
        /// The change.
        control: Control,
        /// The person or program that changed it.
        actor: &'a str,
    },
    /// A step of the idempotency store failed.
    #[non_exhaustive]
    StoreFailed {
        /// The error.
        error: fmt::Arguments<'a>,
        /// The duration of the step.
        took: Duration,
    },
    /// The idempotency store, or a share of it, is almost full.
    #[non_exhaustive]
    StoreAlmostFull {
        /// The part that is almost full.
        of: &'static str,
        /// Its fill level in percent.
        percent: u64,
    },
    /// An idempotent operation may have run, and its outcome is not known.
    #[non_exhaustive]
    OperationUnknown {
        /// The digest of the key under which it is stored.
        key: fmt::Arguments<'a>,
        /// The fence of its run.
        fence: u64,
    },
    /// The lease of a run ended before the run.
    #[non_exhaustive]
    LeaseLost {
        /// The digest of the key of the operation.
        key: fmt::Arguments<'a>,
    },
    /// The chaos layer was armed. It injects faults from now on.
    #[non_exhaustive]
    ChaosArmed {
        /// The time after which it is disarmed.
        limit: Duration,
    },
    /// The chaos layer was disarmed, or its time is over.
    #[non_exhaustive]
    ChaosDisarmed {
        /// The number of faults that it injected.
        injected: u64,
    },
    /// The chaos layer injected a fault.
    #[non_exhaustive]
    FaultInjected {
        /// The kind of the fault, such as `delay`.
        fault: &'static str,
        /// The number of the call, counted from zero since the layer was armed.
        ///
        /// Calls that a partition separates are numbered apart.
        call: u64,
    },
    /// The cache gave an older response, because the service has failed or takes too long.
    #[non_exhaustive]
    StaleGiven {
        /// The reason as one word, such as `transient` or `circuit_open`.
        reason: &'static str,
        /// The age of the response.
        age: Duration,
    },
    /// The cache does not keep a response that it could share.
    #[non_exhaustive]
    ResponseNotKept {
        /// The reason: `vary` if it depends on what is not in its key, or `size` if it is too big
        /// together with its key and its headers.
        reason: &'static str,
    },
    /// A call of a stack ended.
    #[non_exhaustive]
    CallEnded {
        /// The outcome.
        outcome: CallOutcome,
        /// The cause of a failure or rejection.
        error_type: Option<&'static str>,
        /// The duration, up to the end of a streaming response.
        took: Duration,
    },
    /// An attempt of a retry ended.
    #[non_exhaustive]
    AttemptEnded {
        /// The outcome.
        outcome: CallOutcome,
        /// The cause of a failure or rejection.
        error_type: Option<&'static str>,
        /// The duration, up to the end of a streaming response.
        took: Duration,
    },
    /// A duration was measured for a histogram of the catalogue.
    ///
    /// Durations of calls and attempts have events of their own.
    #[non_exhaustive]
    Measured {
        /// The histogram.
        instrument: &'static Instrument,
        /// The values of its last attributes. An empty one stands for none.
        values: [&'static str; 2],
        /// The duration.
        took: Duration,
    },
}

impl Event<'_> {
    /// Returns `false` for the end of a call or an attempt, and for a measured duration.
    pub fn is_rare(&self) -> bool {
        self.measured().is_none()
    }

    /// Returns the histogram that a duration belongs to, the values of its last attributes, and the
    /// duration. They are those of [`Measured`](Self::Measured), also for a call or an attempt.
    ///
    /// For exporters that cannot read a histogram. They record each duration of an observer that
    /// wants [all](super::Interest::All) events, with the [attributes](Source::attributes).
    pub fn measured(&self) -> Option<(&'static Instrument, [&'static str; 2], Duration)> {
        match *self {
            Self::CallEnded { outcome, took, .. } => {
                Some((&CALL_DURATION, [outcome.as_str(), ""], took))
            }
            Self::AttemptEnded { outcome, took, .. } => {
                Some((&ATTEMPT_DURATION, [outcome.as_str(), ""], took))
            }
            Self::Measured { instrument, values, took } => Some((instrument, values, took)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_a_duration_has_the_attributes_of_the_series_that_counts_it() {
        let took = Duration::from_millis(7);
        let (outcome, error_type) = (CallOutcome::Rejected, Some("bulkhead_full"));
        let events = [
            (Event::CallEnded { outcome, error_type, took }, Kind::Call, &CALL_DURATION),
            (Event::AttemptEnded { outcome, error_type, took }, Kind::Retry, &ATTEMPT_DURATION),
        ];
        for (event, kind, instrument) in events {
            assert!(!event.is_rare());
            let (histogram, values, duration) = event.measured().unwrap();
            assert!(std::ptr::eq(histogram, instrument));
            assert_eq!(duration, took);
            let attributes = Source::new(Some("orders"), "a", kind).attributes(instrument, &values);
            let keys: Vec<_> = attributes.iter().map(|(key, _)| *key).collect();
            assert_eq!(keys, instrument.attributes);
            assert_eq!(attributes.first().unwrap().1, "orders");
            assert_eq!(attributes.last().unwrap().1, "rejected");
        }
        let outside = Source::new(None, "a", Kind::Call).attributes(&CALL_DURATION, &["success"]);
        assert_eq!(outside, [(super::super::field::OUTCOME, Cow::Borrowed("success"))]);
    }
}
