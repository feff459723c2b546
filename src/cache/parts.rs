//! The parts that the calls of one service share.

use std::{fmt, sync::Arc, time::Duration};

use super::shared::Shared;

/// The state, the rules and the classifier of a cache around one service.
pub(super) struct Parts<K, V, R, C> {
    pub(super) shared: Arc<Shared<K, V>>,
    pub(super) rules: Arc<R>,
    pub(super) classifier: Arc<C>,
    /// The limit of the total timeout beneath, if it is known.
    pub(super) total: Option<Duration>,
}

impl<K, V, R, C> fmt::Debug for Parts<K, V, R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("shared", &self.shared).finish_non_exhaustive()
    }
}
