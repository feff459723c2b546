//! The service of an endpoint, which is made anew when it is dead.

use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Mutex,
};

use crate::call::lock::lock;

/// The service of an endpoint.
pub(super) struct Slot<S> {
    /// It is in a lock because the service need not be `Sync`.
    current: Mutex<Current<S>>,
    make: Box<dyn Fn() -> S + Send + Sync>,
}

struct Current<S> {
    /// The service that is cloned for each call.
    service: S,
    renewals: u32,
    is_being_renewed: bool,
}

impl<S> Slot<S> {
    /// Makes the service.
    pub(super) fn new(make: impl Fn() -> S + Send + Sync + 'static) -> Self {
        let current = Current { service: make(), renewals: 0, is_being_renewed: false };
        Self { current: Mutex::new(current), make: Box::new(make) }
    }

    /// Returns a clone of the service, which is not ready yet, and the number of its renewals.
    #[inline]
    pub(super) fn service(&self) -> (S, u32)
    where
        S: Clone,
    {
        // The service's `clone` runs under this lock, because the service need not be `Sync`. It
        // cannot deadlock, because the service has no access to the lock.
        let current = lock(&self.current);
        (current.service.clone(), current.renewals)
    }

    /// Makes another service for this endpoint.
    pub(super) fn make(&self) -> S {
        (self.make)()
    }

    /// Replaces a service that was renewed so many times by another one of this endpoint.
    pub(super) fn replace(&self, renewals: u32, new: S) {
        let mut current = lock(&self.current);
        let unused = if current.renewals == renewals { current.replace(new) } else { new };
        // It is dropped after the lock.
        drop(current);
        drop(unused);
    }

    /// Replaces a service that was renewed so many times, unless another call does so.
    ///
    /// If that panics, the service stays, and the next call that it fails tries again.
    pub(super) fn renew(&self, renewals: u32) {
        {
            let mut current = lock(&self.current);
            if current.renewals != renewals || current.is_being_renewed {
                return;
            }
            current.is_being_renewed = true;
        }
        let new = catch_unwind(AssertUnwindSafe(|| self.make())).ok();
        let mut current = lock(&self.current);
        current.is_being_renewed = false;
        let old = new.map(|new| current.replace(new));
        // The old service is dropped after the lock.
        drop(current);
        drop(old);
    }
}

impl<S> Current<S> {
    /// Returns the old service.
    fn replace(&mut self, new: S) -> S {
        self.renewals = self.renewals.wrapping_add(1);
        mem::replace(&mut self.service, new)
    }
}
