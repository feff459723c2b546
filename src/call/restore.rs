//! Values that are ambient on a thread for a while.

use std::{cell::Cell, thread::LocalKey};

/// Puts back what was ambient before, also when what runs in between panics.
#[must_use]
pub(crate) struct Restore<T: Copy + 'static> {
    cell: &'static LocalKey<Cell<T>>,
    previous: T,
}

impl<T: Copy> Restore<T> {
    #[inline]
    pub(super) fn after_setting(cell: &'static LocalKey<Cell<T>>, value: T) -> Self {
        Self { cell, previous: cell.replace(value) }
    }
}

impl<T: Copy> Drop for Restore<T> {
    #[inline]
    fn drop(&mut self) {
        self.cell.set(self.previous);
    }
}
