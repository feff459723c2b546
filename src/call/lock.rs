//! The lock of all shared state in this crate.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks the mutex, ignoring poisoning.
///
/// The state under these locks is consistent wherever user code could panic, such as the `Clone` of
/// a retried service, or the `Hash` and `Eq` of a key.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
