//! The events of the idempotency layer.

use std::time::Duration;

use tracing::{error, warn};

use super::{StorageKey, StoreError};
use crate::telemetry::{TARGET, field, millis};

pub(super) fn store_failed(name: &str, error: &StoreError, took: Duration) {
    warn!(
        target: TARGET,
        {
            { field::LAYER } = name,
            { field::REASON } = %error,
            { field::STORE_MS } = millis(took),
        },
        "idempotency store failed"
    );
}

/// `of` names what is almost full.
pub(super) fn store_almost_full(name: &str, of: &str, percent: u64) {
    warn!(
        target: TARGET,
        {
            { field::LAYER } = name,
            { field::REASON } = of,
            { field::STORE_PERCENT } = percent,
        },
        "idempotency store almost full"
    );
}

pub(super) fn lease_lost(name: &str, key: StorageKey) {
    warn!(
        target: TARGET,
        {
            { field::LAYER } = name,
            { field::KEY } = %key,
        },
        "lease lost"
    );
}

pub(super) fn became_unknown(name: &str, key: StorageKey, fence: u64) {
    error!(
        target: TARGET,
        {
            { field::LAYER } = name,
            { field::KEY } = %key,
            { field::FENCE } = fence,
        },
        "idempotent operation has unknown outcome"
    );
}
