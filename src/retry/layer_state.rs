//! The budget of a retry as a registry reads it.

use std::sync::{Arc, Weak};

use crate::{
    budget::{Bucket, Budget},
    telemetry::{
        LayerState, Readings,
        instrument::{RETRY_BUDGET_RATIO, RETRY_BUDGET_TOKENS},
    },
};

impl Budget {
    /// Returns the state that a registry reads.
    pub(super) fn state(&self) -> Weak<dyn LayerState> {
        let bucket: Weak<Bucket> = Arc::downgrade(self.bucket());
        bucket
    }
}

/// An empty budget is never unready. Only retries need it.
impl LayerState for Bucket {
    fn read(&self, readings: &mut Readings) {
        readings.set(&RETRY_BUDGET_RATIO, self.share_left());
        readings.set(&RETRY_BUDGET_TOKENS, self.tokens());
    }
}
