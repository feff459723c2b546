use std::sync::atomic::AtomicU64;

use super::config::Config;

/// What the services of one layer share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    /// Header lines that were malformed.
    pub(super) malformed: AtomicU64,
}
