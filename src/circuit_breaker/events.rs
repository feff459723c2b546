//! The events of a circuit breaker.

use std::time::Duration;

use tracing::{debug, error, info, warn};

use super::state::TripReason;
use crate::telemetry::{TARGET, field, millis};

pub(super) fn opened(
    name: &str,
    key: Option<&str>,
    reason: TripReason,
    open_for: Option<Duration>,
) {
    error!(
        target: TARGET,
        {
            { field::LAYER } = name,
            { field::BREAKER_KEY } = key,
            { field::REASON } = reason.as_str(),
            { field::OPEN_MS } = open_for.map(millis),
        },
        "circuit opened"
    );
}

pub(super) fn half_open(name: &str, key: Option<&str>, probes: u32) {
    warn!(
        target: TARGET,
        {
            { field::LAYER } = name,
            { field::BREAKER_KEY } = key,
            { field::PROBES } = probes,
        },
        "circuit half-open"
    );
}

pub(super) fn closed(name: &str, key: Option<&str>) {
    info!(
        target: TARGET,
        {
            { field::LAYER } = name,
            { field::BREAKER_KEY } = key,
        },
        "circuit closed"
    );
}

pub(super) fn disabled(name: &str, key: Option<&str>) {
    debug!(
        target: TARGET,
        {
            { field::LAYER } = name,
            { field::BREAKER_KEY } = key,
        },
        "circuit disabled"
    );
}
