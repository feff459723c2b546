//! The lines of the layers.

use tracing::{debug, error, info, warn};

use super::{
    super::{
        event::{Event, Source},
        field, millis,
    },
    targets::{CACHE, CHAOS, CIRCUIT_BREAKER, ENDPOINTS, FALLBACK, IDEMPOTENCY},
};

pub(super) fn fallback(source: Source<'_>, event: &Event<'_>, suppressed: Option<u64>) {
    match *event {
        Event::FallbackUsed { reason } => gated!(
            FALLBACK,
            suppressed,
            {
                { field::STACK } = source.stack(),
                { field::LAYER } = source.layer(),
                { field::REASON } = reason.as_str()
            },
            "fallback used"
        ),
        Event::FallbackFailed { reason, cause } => gated!(
            FALLBACK,
            suppressed,
            {
                { field::STACK } = source.stack(),
                { field::LAYER } = source.layer(),
                { field::REASON } = reason.as_str(),
                { field::ERROR_TYPE } = cause
            },
            "fallback failed"
        ),
        _ => {}
    }
}

/// Writes a transition of a breaker.
///
/// It is no event of the call that happened to cause it, so it is in no span. A tracing backend
/// would otherwise take a successful call for a failed one.
pub(super) fn circuit_breaker(source: Source<'_>, event: &Event<'_>, suppressed: Option<u64>) {
    match *event {
        Event::CircuitOpened { key, reason, open_for } => error!(
            target: CIRCUIT_BREAKER,
            parent: None,
            {
                { field::STACK } = source.stack(),
                { field::LAYER } = source.layer(),
                { field::BREAKER_KEY } = key,
                { field::REASON } = reason,
                { field::OPEN_MS } = open_for.map(millis),
            },
            "circuit opened"
        ),
        Event::CircuitHalfOpen { key, probes } => warn!(
            target: CIRCUIT_BREAKER,
            parent: None,
            {
                { field::STACK } = source.stack(),
                { field::LAYER } = source.layer(),
                { field::BREAKER_KEY } = key,
                { field::PROBES } = probes,
            },
            "circuit half-open"
        ),
        Event::CircuitClosed { key, reason, rejected, open_for } => info!(
            target: CIRCUIT_BREAKER,
            parent: None,
            {
                { field::STACK } = source.stack(),
                { field::LAYER } = source.layer(),
                { field::BREAKER_KEY } = key,
                { field::REASON } = reason,
                { field::OPEN_MS } = open_for.map(millis),
                { field::REJECTED } = rejected,
                { field::SUPPRESSED } = suppressed.filter(|it| *it > 0),
            },
            "circuit closed"
        ),
        Event::CircuitDisabled { key } => debug!(
            target: CIRCUIT_BREAKER,
            parent: None,
            {
                { field::STACK } = source.stack(),
                { field::LAYER } = source.layer(),
                { field::BREAKER_KEY } = key
            },
            "circuit disabled"
        ),
        _ => {}
    }
}

pub(super) fn idempotency(source: Source<'_>, event: &Event<'_>, suppressed: Option<u64>) {
    match *event {
        Event::StoreFailed { error, took } => gated!(
            IDEMPOTENCY,
            suppressed,
            {
                { field::STACK } = source.stack(),
                { field::LAYER } = source.layer(),
                { field::REASON } = %error,
                { field::STORE_MS } = millis(took)
            },
            "idempotency store failed"
        ),
        Event::StoreAlmostFull { of, percent } => warn!(
            target: IDEMPOTENCY,
            {
                { field::STACK } = source.stack(),
                { field::LAYER } = source.layer(),
                { field::REASON } = of,
                { field::STORE_PERCENT } = percent,
            },
            "idempotency store almost full"
        ),
        Event::LeaseLost { key } => {
            warn!(
                target: IDEMPOTENCY,
                {
                    { field::STACK } = source.stack(),
                    { field::LAYER } = source.layer(),
                    { field::KEY } = %key,
                },
                "lease lost"
            );
        }
        Event::OperationUnknown { key, fence } => error!(
            target: IDEMPOTENCY,
            {
                { field::STACK } = source.stack(),
                { field::LAYER } = source.layer(),
                { field::KEY } = %key,
                { field::FENCE } = fence,
            },
            "idempotent operation has unknown outcome"
        ),
        _ => {}
    }
}

/// Writes what a chaos layer does. Only the fault belongs to the call that is made at that time.
pub(super) fn chaos(source: Source<'_>, event: &Event<'_>) {
    match *event {
        Event::ChaosArmed { limit } => warn!(
            target: CHAOS,
            parent: None,
            {
                { field::STACK } = source.stack(),
                { field::LAYER } = source.layer(),
                { field::LIMIT_MS } = millis(limit),
            },
            "chaos armed"
        ),
        Event::ChaosDisarmed { injected } => warn!(
            target: CHAOS,
            parent: None,
            {
                { field::STACK } = source.stack(),
                { field::LAYER } = source.layer(),
                { field::INJECTED } = injected,
            },
            "chaos disarmed"
        ),
        Event::FaultInjected { fault, call } => debug!(
            target: CHAOS,
            {
                { field::STACK } = source.stack(),
                { field::LAYER } = source.layer(),
                { field::FAULT } = fault,
                { field::FAULT_CALL } = call,
            },
            "fault injected"
        ),
        _ => {}
    }
}

/// Writes a change of an endpoint. Like that of a breaker, it is in no span.
pub(super) fn endpoints(source: Source<'_>, event: &Event<'_>) {
    match *event {
        Event::EndpointOut { address, reason, out_for } => warn!(
            target: ENDPOINTS,
            parent: None,
            {
                { field::STACK } = source.stack(),
                { field::LAYER } = source.layer(),
                { field::SERVER_ADDRESS } = %address,
                { field::REASON } = reason,
                { field::OUT_MS } = out_for.map(millis),
            },
            "endpoint out"
        ),
        Event::EndpointBack { address, reason } => info!(
            target: ENDPOINTS,
            parent: None,
            {
                { field::STACK } = source.stack(),
                { field::LAYER } = source.layer(),
                { field::SERVER_ADDRESS } = %address,
                { field::REASON } = reason,
            },
            "endpoint back"
        ),
        Event::NoEndpointUsable { endpoints } => error!(
            target: ENDPOINTS,
            parent: None,
            {
                { field::STACK } = source.stack(),
                { field::LAYER } = source.layer(),
                { field::ENDPOINTS } = endpoints,
            },
            "no endpoint usable"
        ),
        _ => {}
    }
}

pub(super) fn cache(source: Source<'_>, event: &Event<'_>, suppressed: Option<u64>) {
    match *event {
        Event::StaleGiven { reason, age } => gated!(
            CACHE,
            suppressed,
            {
                { field::STACK } = source.stack(),
                { field::LAYER } = source.layer(),
                { field::REASON } = reason,
                { field::AGE_MS } = millis(age)
            },
            "stale response given"
        ),
        Event::ResponseNotKept { reason } => gated!(
            CACHE,
            suppressed,
            {
                { field::STACK } = source.stack(),
                { field::LAYER } = source.layer(),
                { field::REASON } = reason
            },
            "response not kept"
        ),
        _ => {}
    }
}
