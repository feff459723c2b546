//! The lock of everything here that has one.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, also after a panic. What is under these locks is whole at every point where a user's code
/// could panic: none runs but the `Clone` of a retried service, and the `Hash` and `Eq` of a key.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
