//! The events of a bulkhead.

use tracing::debug;

use crate::telemetry::{TARGET, field};

pub(super) fn call_queued(name: &str, queued: u32) {
    debug!(target: TARGET, { { field::LAYER } = name, { field::QUEUED } = queued }, "call queued");
}

pub(super) fn resized(name: &str, limit: u32) {
    debug!(
        target: TARGET,
        {
            { field::LAYER } = name,
            { field::LIMIT } = limit,
        },
        "bulkhead resized"
    );
}
