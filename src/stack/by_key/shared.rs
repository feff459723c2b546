//! The state that the services of all clones share.

use std::{
    any::type_name,
    fmt,
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::entry::Entry;
use crate::{
    keyed::{DescribeKey, Keys},
    stack::handles::Handles,
};

/// Creates the stack of a key.
pub(super) type Make<K, St> = Arc<dyn Fn(&K) -> St + Send + Sync>;

/// The stacks of all keys.
pub(super) struct Shared<K, F, St> {
    pub(super) key: F,
    pub(super) make: Make<K, St>,
    pub(super) describe: Option<DescribeKey<K>>,
    pub(super) stacks: Keys<K, Entry<St>>,
    /// The number of stacks that were made so far.
    pub(super) made: AtomicU64,
}

impl<K: Hash + Eq, F, St: Handles> Shared<K, F, St> {
    /// Returns the stack of the key of a request. Makes one if there is none.
    pub(super) fn entry<Req>(&self, request: &Req) -> Arc<Entry<St>>
    where
        F: Fn(&Req) -> K,
    {
        self.stacks.entry((self.key)(request), |key| {
            let id = self.made.fetch_add(1, Ordering::Relaxed);
            let entry = Entry::new(id, (self.make)(key));
            if let Some(describe) = &self.describe {
                entry.describe(describe(key));
            }
            entry
        })
    }
}

impl<K, F, St> fmt::Debug for Shared<K, F, St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("key", &format_args!("{}", type_name::<F>()))
            .field("stack", &format_args!("{}", type_name::<St>()))
            .finish_non_exhaustive()
    }
}
