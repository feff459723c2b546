//! The lines that events write into the log.

use std::sync::OnceLock;

use tokio::time::Instant;
use tracing::{Level, debug, enabled, info, level_filters::LevelFilter, trace_span, warn};

use super::{
    event::{Event, Source},
    field,
    gate::{Gates, Passage},
    kind::Kind,
    metrics::Control,
    millis,
};
use crate::{
    Rejection,
    call::clock::{self, nanos},
    error::CircuitOpen,
};

/// Runs a block with the constant `TARGET` set to the target of a kind of layer.
///
/// `tracing` takes only constant targets.
macro_rules! with_target {
    ($kind:expr, $block:block) => {
        match $kind {
            Kind::Call => {
                const TARGET: &str = CALL;
                $block
            }
            Kind::Timeout | Kind::TotalTimeout | Kind::AttemptTimeout => {
                const TARGET: &str = "buttress::timeout";
                $block
            }
            Kind::Retry => {
                const TARGET: &str = RETRY;
                $block
            }
            Kind::Fallback => {
                const TARGET: &str = FALLBACK;
                $block
            }
            Kind::Bulkhead => {
                const TARGET: &str = BULKHEAD;
                $block
            }
            Kind::CircuitBreaker => {
                const TARGET: &str = CIRCUIT_BREAKER;
                $block
            }
            Kind::Idempotency => {
                const TARGET: &str = IDEMPOTENCY;
                $block
            }
            Kind::Chaos => {
                const TARGET: &str = CHAOS;
                $block
            }
            Kind::Endpoints => {
                const TARGET: &str = ENDPOINTS;
                $block
            }
            Kind::Cache => {
                const TARGET: &str = CACHE;
                $block
            }
            #[cfg(feature = "http")]
            Kind::Client
            | Kind::Server
            | Kind::Body
            | Kind::IdleBody
            | Kind::UnreadBody
            | Kind::ReplayBody => {
                const TARGET: &str = "buttress::http";
                $block
            }
        }
    };
}

#[macro_use]
mod gated;
mod layers;
mod targets;

use self::targets::{BULKHEAD, CACHE, CHAOS, CIRCUIT_BREAKER, ENDPOINTS, FALLBACK, IDEMPOTENCY};
pub(crate) use self::targets::{CALL, RETRY};

/// Writes an event that passes no gate into the log.
pub(super) fn log_ungated(source: Source<'_>, event: &Event<'_>) {
    static NONE: Gates = Gates::new();
    log(source, event, || &NONE);
}

/// Writes an event into the log.
#[inline]
pub(super) fn log<'a>(source: Source<'_>, event: &Event<'_>, gates: impl FnOnce() -> &'a Gates) {
    let level = LevelFilter::current();
    if level > LevelFilter::OFF {
        write(level, source, event, gates);
    } else if reaches_the_crate_log() {
        write(LevelFilter::TRACE, source, event, gates);
    }
}

/// Returns `true` if events reach the crate `log` although there is no subscriber.
///
/// The feature `log` of `tracing` passes them on. Any crate of the program may turn it on. Only
/// with this feature does a span keep its metadata while it is disabled.
#[inline]
pub(super) fn reaches_the_crate_log() -> bool {
    static IS_BUILT_IN: OnceLock<bool> = OnceLock::new();
    LevelFilter::current() == LevelFilter::OFF
        && *IS_BUILT_IN.get_or_init(|| trace_span!("disabled").metadata().is_some())
}

#[inline(never)]
fn write<'a>(
    level: LevelFilter,
    source: Source<'_>,
    event: &Event<'_>,
    gates: impl FnOnce() -> &'a Gates,
) {
    let suppressed = match event.gate() {
        // No subscriber wants the line, so the clock is not read.
        Some(_) if level < LevelFilter::WARN => return,
        Some(reason) => match gates().of(reason).pass(now()) {
            Passage::Open { suppressed } => Some(suppressed),
            Passage::Shut => None,
        },
        None if matches!(event, Event::CircuitClosed { .. }) => {
            // The next rejection is that of another outage. This line tells of those that were
            // suppressed, unless nobody wants it. Then the next rejection does.
            let reason = Rejection::from(CircuitOpen::by(None, None)).reason_index();
            let is_seen = reaches_the_crate_log() || enabled!(target: CIRCUIT_BREAKER, Level::INFO);
            Some(gates().of(reason).reopen(is_seen))
        }
        None => Some(0),
    };
    match *event {
        Event::Rejected { rejection } => rejected(source, rejection, suppressed),
        Event::Retrying { .. } | Event::RetriesExhausted { .. } | Event::NotRetried { .. } => {
            retry(source, event, suppressed);
        }
        Event::FallbackUsed { .. } | Event::FallbackFailed { .. } => {
            layers::fallback(source, event, suppressed);
        }
        Event::CallQueued { queued } => debug!(
            target: BULKHEAD,
            {
                { field::STACK } = source.stack(),
                { field::LAYER } = source.layer(),
                { field::QUEUED } = queued
            },
            "call queued"
        ),
        Event::BulkheadResized { limit } => debug!(
            target: BULKHEAD,
            {
                { field::STACK } = source.stack(),
                { field::LAYER } = source.layer(),
                { field::LIMIT } = limit
            },
            "bulkhead resized"
        ),
        Event::CircuitOpened { .. }
        | Event::CircuitHalfOpen { .. }
        | Event::CircuitClosed { .. }
        | Event::CircuitDisabled { .. } => layers::circuit_breaker(source, event, suppressed),
        Event::StoreFailed { .. }
        | Event::StoreAlmostFull { .. }
        | Event::OperationUnknown { .. }
        | Event::LeaseLost { .. } => layers::idempotency(source, event, suppressed),
        Event::ChaosArmed { .. } | Event::ChaosDisarmed { .. } | Event::FaultInjected { .. } => {
            layers::chaos(source, event);
        }
        Event::EndpointOut { .. } | Event::EndpointBack { .. } | Event::NoEndpointUsable { .. } => {
            layers::endpoints(source, event);
        }
        Event::StaleGiven { .. } | Event::ResponseNotKept { .. } => {
            layers::cache(source, event, suppressed)
        }
        Event::Controlled { control, actor } => controlled(source, control, actor),
        // They are in the spans.
        Event::CallEnded { .. } | Event::AttemptEnded { .. } | Event::Measured { .. } => {}
    }
}

/// Returns the time in nanoseconds, which differs from an earlier time by the time between them.
fn now() -> u64 {
    /// The number of the first instant. A paused clock may later be before it.
    const FIRST: u64 = 1 << 62;
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    let now = clock::now();
    let origin = *ORIGIN.get_or_init(|| now);
    let (after, before) =
        (now.saturating_duration_since(origin), origin.saturating_duration_since(now));
    FIRST.saturating_add(nanos(after)).saturating_sub(nanos(before))
}

fn rejected(source: Source<'_>, rejection: &Rejection, suppressed: Option<u64>) {
    with_target!(source.layer_kind(), {
        match rejection {
            Rejection::TimedOut(timed_out) => gated!(
                TARGET,
                suppressed,
                {
                    { field::STACK } = source.stack(),
                    { field::LAYER } = source.layer(),
                    { field::KIND } = source.kind(),
                    { field::ERROR_TYPE } = rejection.kind(),
                    { field::LIMIT_MS } = millis(timed_out.limit())
                },
                "call timed out"
            ),
            _ => gated!(
                TARGET,
                suppressed,
                {
                    { field::STACK } = source.stack(),
                    { field::LAYER } = source.layer(),
                    { field::KIND } = source.kind(),
                    { field::ERROR_TYPE } = rejection.kind(),
                    { field::BREAKER_KEY } = breaker_key(rejection),
                    { field::LIMIT } = limit(rejection),
                    { field::RETRY_AFTER_MS } = rejection.retry_after().map(millis)
                },
                "call rejected"
            ),
        }
    });
}

fn retry(source: Source<'_>, event: &Event<'_>, suppressed: Option<u64>) {
    match *event {
        Event::Retrying { attempt, outcome, error_type, delay } => gated!(
            RETRY,
            suppressed,
            {
                { field::STACK } = source.stack(),
                { field::LAYER } = source.layer(),
                { field::ATTEMPT } = attempt,
                { field::OUTCOME } = outcome.as_str(),
                { field::ERROR_TYPE } = error_type,
                { field::DELAY_MS } = millis(delay)
            },
            "retrying call"
        ),
        Event::RetriesExhausted { attempts, outcome, error_type, reason } => gated!(
            RETRY,
            suppressed,
            {
                { field::STACK } = source.stack(),
                { field::LAYER } = source.layer(),
                { field::ATTEMPT } = attempts,
                { field::OUTCOME } = outcome.as_str(),
                { field::ERROR_TYPE } = error_type,
                { field::REASON } = reason
            },
            "retries exhausted"
        ),
        // It is an expected result of most writes, so it is no warning.
        Event::NotRetried { attempt, outcome, error_type, reason } => debug!(
            target: RETRY,
            {
                { field::STACK } = source.stack(),
                { field::LAYER } = source.layer(),
                { field::ATTEMPT } = attempt,
                { field::OUTCOME } = outcome.as_str(),
                { field::ERROR_TYPE } = error_type,
                { field::REASON } = reason,
            },
            "call not retried"
        ),
        _ => {}
    }
}

fn controlled(source: Source<'_>, control: Control, actor: &str) {
    with_target!(source.layer_kind(), {
        info!(
            target: TARGET,
            {
                { field::STACK } = source.stack(),
                { field::LAYER } = source.layer(),
                { field::KIND } = source.kind(),
                { field::CONTROL } = control.as_str(),
                { field::ACTOR } = actor,
            },
            "layer controlled"
        );
    });
}

fn limit(rejection: &Rejection) -> Option<u32> {
    match rejection {
        Rejection::BulkheadFull(full) => Some(full.limit()),
        _ => None,
    }
}

fn breaker_key(rejection: &Rejection) -> Option<&str> {
    match rejection {
        Rejection::CircuitOpen(open) => open.key(),
        _ => None,
    }
}
