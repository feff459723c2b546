use std::sync::atomic::AtomicU64;

use super::config::Config;

/// The state that all services of one layer share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    /// The number of malformed header lines.
    pub(super) malformed: AtomicU64,
}
