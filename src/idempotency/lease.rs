//! The leases that this process holds, and the one task that renews them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{Hold, Store, Written, shared::Shared};
use crate::call::{
    catch_panic::CatchPanic,
    lock::lock,
    race::{Either, race},
};

/// All leases of a layer.
#[derive(Debug, Default)]
pub(super) struct Leases {
    held: Mutex<Held>,
    /// Told when one is due before the task that renews them looks.
    sooner: Notify,
}

#[derive(Debug, Default)]
struct Held {
    leases: HashMap<u64, Arc<Lease>>,
    next: u64,
    /// When the task that renews them looks next; `None` if it is not running.
    looks: Option<Instant>,
}

/// One lease: until when it is trusted, and whether it has been lost.
#[derive(Debug)]
pub(super) struct Lease {
    hold: Hold,
    /// From here on it is not renewed any more.
    limit: Instant,
    term: Mutex<Term>,
    changed: Notify,
}

#[derive(Clone, Copy, Debug)]
struct Term {
    /// When it is to be renewed.
    due: Instant,
    /// Until when nobody else runs the operation, by this process's own clock. It counts from before the
    /// claim was sent, so that it is over before the store's.
    end: Instant,
}

impl Lease {
    /// Until when it is trusted.
    pub(super) fn end(&self) -> Instant {
        lock(&self.term).end
    }

    /// Waits until it is over, or has been lost.
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

    fn set(&self, term: Term) {
        *lock(&self.term) = term;
        self.changed.notify_waiters();
    }
}

/// A lease that is renewed until this is dropped.
pub(super) struct Leased<St: Store> {
    shared: Arc<Shared<St>>,
    lease: Arc<Lease>,
    id: u64,
}

impl<St: Store> Leased<St> {
    /// Holds a lease that was granted for a claim which was sent at `sent`.
    pub(super) fn new(shared: Arc<Shared<St>>, hold: Hold, sent: Instant) -> Self {
        let config = &shared.config;
        let due = sent + config.lease / 3;
        let lease = Arc::new(Lease {
            hold,
            limit: sent + config.lease_limit,
            term: Mutex::new(Term { due, end: sent + config.trusted() }),
            changed: Notify::new(),
        });
        let mut held = shared.leases.held();
        let id = held.next;
        held.next += 1;
        held.leases.insert(id, Arc::clone(&lease));
        let looks = held.looks;
        held.looks = Some(looks.map_or(due, |looks| looks.min(due)));
        drop(held);
        match looks {
            None => drop(tokio::spawn(renew(Arc::clone(&shared)))),
            // Its claim took long, or the task waits for one that has been lost.
            Some(looks) if due < looks => shared.leases.sooner.notify_one(),
            Some(_) => {}
        }
        Self { shared, lease, id }
    }

    pub(super) fn lease(&self) -> &Lease {
        &self.lease
    }
}

impl<St: Store> Drop for Leased<St> {
    fn drop(&mut self) {
        let removed = self.shared.leases.held().leases.remove(&self.id);
        drop(removed);
    }
}

impl Leases {
    fn held(&self) -> MutexGuard<'_, Held> {
        lock(&self.held)
    }

    /// When the next lease is due; `None` if there is none, and then nobody renews from here on.
    fn next_due(&self) -> Option<Instant> {
        let mut held = self.held();
        let due = held.leases.values().map(|lease| lock(&lease.term).due).min();
        held.looks = due;
        due
    }

    /// Those that are due by `by`.
    fn due(&self, by: Instant) -> Vec<Arc<Lease>> {
        let held = self.held();
        held.leases.values().filter(|lease| lock(&lease.term).due <= by).cloned().collect()
    }
}

/// Renews leases for as long as there is one, all that are due in one trip.
async fn renew<St: Store>(shared: Arc<Shared<St>>) {
    let config = &shared.config;
    let mut renewing = Renewing { leases: &shared.leases, ended: false };
    while let Some(due) = shared.leases.next_due() {
        if let Either::Right(()) = race(sleep_until(due), shared.leases.sooner.notified()).await {
            continue;
        }
        let sent = Instant::now();
        // Those that are nearly due go with them: a trip each would be one for every run.
        let due = shared.leases.due(sent + config.lease / 12);
        let (over, renewed): (Vec<_>, Vec<_>) =
            due.into_iter().partition(|lease| lease.limit <= sent);
        for lease in over {
            let end = lease.end();
            // Ends with its term, and the run with it.
            lease.set(Term { due: end + config.lease, end });
        }
        if renewed.is_empty() {
            continue;
        }
        let holds: Vec<Hold> = renewed.iter().map(|lease| lease.hold).collect();
        // A panic of the store would leave all leases of this layer, and of all runs to come, without renewal.
        let step = async { shared.step(shared.store.renew(&holds, config.lease)).await };
        match (CatchPanic { future: step }).await {
            Ok(Ok(written)) if written.len() == renewed.len() => {
                for (lease, written) in renewed.iter().zip(written) {
                    match written {
                        Written::Applied => lease.set(Term {
                            due: sent + config.lease / 3,
                            end: sent + config.trusted(),
                        }),
                        Written::Stale => lease.set(Term { due: sent + config.lease, end: sent }),
                    }
                }
            }
            // Not known: asked again soon, while the lease lasts.
            Ok(Ok(_) | Err(_)) | Err(_) => {
                let again = Instant::now() + soon(config.lease);
                for lease in renewed {
                    let end = lease.end();
                    lease.set(Term { due: again, end });
                }
            }
        }
    }
    renewing.ended = true;
}

/// The task that renews. Dropped with its runtime it says so: a guard may be used from several, and the next
/// lease begins another task.
struct Renewing<'a> {
    leases: &'a Leases,
    ended: bool,
}

impl Drop for Renewing<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.leases.held().looks = None;
        }
    }
}

/// When a renewal that failed is tried again.
fn soon(lease: Duration) -> Duration {
    (lease / 12).max(Duration::from_millis(1))
}
