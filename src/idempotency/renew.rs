//! The task that renews the leases of a layer.

use std::sync::Arc;

use tokio::time::{Instant, sleep_until};

use super::{
    Hold, StepOutcome, Store,
    lease::{Lease, Leases},
    shared::Shared,
};
use crate::call::{
    catch_panic::CatchPanic,
    race::{Either, race},
};

/// A lease that is renewed until this value is dropped.
pub(super) struct RenewedLease<St: Store> {
    shared: Arc<Shared<St>>,
    lease: Arc<Lease>,
    id: u64,
}

impl<St: Store> RenewedLease<St> {
    /// Begins to renew a lease that was granted for a claim sent at `sent`.
    pub(super) fn new(shared: Arc<Shared<St>>, hold: Hold, sent: Instant) -> Self {
        let lease = Arc::new(Lease::new(hold, sent, &shared.config));
        let (id, is_first) = shared.leases.add(Arc::clone(&lease));
        if is_first {
            tokio::spawn(renew(Arc::clone(&shared)));
        }
        Self { shared, lease, id }
    }

    pub(super) fn lease(&self) -> &Lease {
        &self.lease
    }
}

impl<St: Store> Drop for RenewedLease<St> {
    fn drop(&mut self) {
        self.shared.leases.remove(self.id);
    }
}

/// Renews leases until there are none. All leases that are due take one round trip.
async fn renew<St: Store>(shared: Arc<Shared<St>>) {
    let config = &shared.config;
    let mut renewing = Renewing { leases: &shared.leases, ended: false };
    while let Some(due) = shared.leases.next_due() {
        if let Either::Right(()) = race(sleep_until(due), shared.leases.sooner.notified()).await {
            continue;
        }
        let sent = Instant::now();
        // Leases that are nearly due are renewed too. Otherwise each run would need its own round
        // trip.
        let due = shared.leases.due(sent + config.lease / 12);
        let (renewed, over): (Vec<_>, Vec<_>) =
            due.into_iter().partition(|lease| lease.is_renewable(sent));
        over.iter().for_each(|lease| lease.expire(config));
        if renewed.is_empty() {
            continue;
        }
        let holds: Vec<Hold> = renewed.iter().map(|lease| lease.hold).collect();
        // A panic of the store would stop the renewal of all leases, even of later runs.
        let step = async { shared.step("renew", shared.store.renew(&holds, config.lease)).await };
        match (CatchPanic { future: step }).await {
            Ok(Ok(written)) if written.len() == renewed.len() => {
                for (lease, written) in renewed.iter().zip(written) {
                    match written {
                        StepOutcome::Applied => lease.renewed(sent, config),
                        StepOutcome::Stale => lease.lost(sent, config),
                    }
                }
            }
            Ok(Ok(_) | Err(_)) | Err(_) => {
                let now = Instant::now();
                renewed.iter().for_each(|lease| lease.unsure(now, config));
            }
        }
    }
    renewing.ended = true;
}

/// Marks the renewal task as ended if its runtime drops it.
///
/// A layer may be used from several runtimes. The next lease then starts another task.
struct Renewing<'a> {
    leases: &'a Leases,
    ended: bool,
}

impl Drop for Renewing<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.leases.renewing_ended();
        }
    }
}
