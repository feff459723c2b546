//! The leases of this process, and the time at which each of them ends and is renewed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{Hold, config::Config};
use crate::call::{lock::lock, race::race};

/// All leases of a layer.
#[derive(Debug, Default)]
pub(super) struct Leases {
    table: Mutex<LeaseTable>,
    /// Notified when a lease is due before the renewal task wakes up.
    pub(super) sooner: Notify,
}

#[derive(Debug, Default)]
struct LeaseTable {
    leases: HashMap<u64, Arc<Lease>>,
    next: u64,
    /// The time at which the renewal task wakes up; `None` if it is not running.
    wakes: Option<Instant>,
}

impl Leases {
    fn table(&self) -> MutexGuard<'_, LeaseTable> {
        lock(&self.table)
    }

    /// Adds a lease. Returns its id, and whether the renewal task must be started.
    pub(super) fn add(&self, lease: Arc<Lease>) -> (u64, bool) {
        let due = lease.term().due;
        let mut table = self.table();
        let id = table.next;
        table.next += 1;
        table.leases.insert(id, lease);
        let wakes = table.wakes;
        table.wakes = Some(wakes.map_or(due, |wakes| wakes.min(due)));
        drop(table);
        // This happens if the claim took long, or if the task waits for a lease that was lost.
        if wakes.is_some_and(|wakes| due < wakes) {
            self.sooner.notify_one();
        }
        (id, wakes.is_none())
    }

    /// Removes a lease that is no longer held.
    pub(super) fn remove(&self, id: u64) {
        let removed = self.table().leases.remove(&id);
        drop(removed);
    }

    /// Returns the time at which the next lease is due.
    ///
    /// If there is no lease, it returns `None` and marks the renewal task as stopped.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let mut table = self.table();
        let due = table.leases.values().map(|lease| lease.term().due).min();
        table.wakes = due;
        due
    }

    /// Returns the leases that are due by `by`.
    pub(super) fn due(&self, by: Instant) -> Vec<Arc<Lease>> {
        let table = self.table();
        table.leases.values().filter(|lease| lease.term().due <= by).cloned().collect()
    }

    /// Notes that the renewal task has ended, although there may be leases.
    pub(super) fn renewing_ended(&self) {
        self.table().wakes = None;
    }
}

/// A lease, with its trusted term.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) hold: Hold,
    /// The time after which the lease is no longer renewed.
    limit: Instant,
    term: Mutex<Term>,
    changed: Notify,
}

#[derive(Clone, Copy, Debug)]
struct Term {
    /// The time at which the lease is to be renewed.
    due: Instant,
    /// The time until which no other process runs the operation, by the clock of this process.
    ///
    /// It counts from before the claim was sent, so that it ends before the store's lease.
    end: Instant,
}

impl Term {
    /// Creates the term of a lease that a step sent at `sent` began or renewed.
    fn granted(sent: Instant, config: &Config) -> Self {
        Self { due: sent + config.lease / 3, end: sent + config.trusted() }
    }
}

impl Lease {
    /// Creates a lease that was granted for a claim sent at `sent`.
    pub(super) fn new(hold: Hold, sent: Instant, config: &Config) -> Self {
        Self {
            hold,
            limit: sent + config.lease_limit,
            term: Mutex::new(Term::granted(sent, config)),
            changed: Notify::new(),
        }
    }

    /// Returns the time until which the lease is trusted.
    pub(super) fn end(&self) -> Instant {
        self.term().end
    }

    /// Waits until the lease has ended or was lost.
    pub(super) async fn over(&self) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let end = self.end();
            if end <= Instant::now() {
                return;
            }
            race(changed, sleep_until(end)).await;
        }
    }

    /// Returns whether the lease may still be renewed at `now`.
    pub(super) fn is_renewable(&self, now: Instant) -> bool {
        now < self.limit
    }

    /// Stops the renewal. The lease ends with its current term, and the run ends with it.
    pub(super) fn expire(&self, config: &Config) {
        let end = self.end();
        self.set(Term { due: end + config.lease, end });
    }

    /// Notes that a step sent at `sent` renewed the lease.
    pub(super) fn renewed(&self, sent: Instant, config: &Config) {
        self.set(Term::granted(sent, config));
    }

    /// Notes that a step sent at `sent` found the lease lost.
    pub(super) fn lost(&self, sent: Instant, config: &Config) {
        self.set(Term { due: sent + config.lease, end: sent });
    }

    /// Notes that the result of a renewal is not known. It is soon tried again.
    pub(super) fn unsure(&self, now: Instant, config: &Config) {
        let due = now + (config.lease / 12).max(Duration::from_millis(1));
        self.set(Term { due, end: self.end() });
    }

    fn term(&self) -> Term {
        *lock(&self.term)
    }

    fn set(&self, term: Term) {
        *lock(&self.term) = term;
        self.changed.notify_waiters();
    }
}
