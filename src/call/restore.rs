//! Values that are ambient on a thread for some time.

use std::{cell::Cell, thread::LocalKey};

/// Restores the previous ambient value when it is dropped, even after a panic.
#[must_use]
pub(crate) struct Restore<T: Copy + 'static> {
    cell: &'static LocalKey<Cell<T>>,
    previous: T,
}

impl<T: Copy> Restore<T> {
    #[inline]
    pub(crate) fn after_setting(cell: &'static LocalKey<Cell<T>>, value: T) -> Self {
        Self { cell, previous: cell.replace(value) }
    }
}

impl<T: Copy> Drop for Restore<T> {
    #[inline]
    fn drop(&mut self) {
        self.cell.set(self.previous);
    }
}
