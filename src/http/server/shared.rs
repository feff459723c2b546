use std::{sync::atomic::AtomicU64, time::Duration};

use super::config::Config;
use crate::http::{
    reporters::{BodyOwner, HttpReporters},
    uploads::Uploads,
};

/// The state that all services of one layer share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    /// The number of malformed header lines.
    pub(super) malformed: AtomicU64,
    /// `None` if the rest of rejected requests is dropped.
    pub(super) uploads: Option<Uploads>,
    pub(super) reporters: HttpReporters,
}

impl BodyOwner for Shared {
    fn reporters(&self) -> &HttpReporters {
        &self.reporters
    }

    fn idle(&self) -> Option<Duration> {
        self.config.body_idle
    }
}
