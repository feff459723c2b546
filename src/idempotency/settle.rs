//! Settles claims. A claim without a result is released or abandoned, however its run ends.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    time::{Instant, sleep},
};

use super::{Hold, Owner, StepOutcome, StorageKey, Store, StoreError, shared::Shared};

/// A claim that may have been granted and whose effect has not begun.
///
/// Dropping it releases the claim in the background.
pub(super) struct PendingClaim<St: Store> {
    shared: Arc<Shared<St>>,
    key: StorageKey,
    owner: Owner,
    /// `true` if `Drop` releases the claim.
    release_on_drop: bool,
}

impl<St: Store> PendingClaim<St> {
    pub(super) fn new(shared: Arc<Shared<St>>, key: StorageKey, owner: Owner) -> Self {
        Self { shared, key, owner, release_on_drop: true }
    }

    /// Prevents the release, because a run has taken the claim over or the claim was not granted.
    pub(super) fn keep(mut self) {
        self.release_on_drop = false;
    }
}

impl<St: Store> Drop for PendingClaim<St> {
    fn drop(&mut self) {
        if self.release_on_drop {
            let hold = Hold::new(self.key, self.owner, 0);
            release_until_it_arrives(&self.shared, hold);
        }
    }
}

/// The way to settle a claim that is not completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settlement {
    /// Nothing began in this run. The outcome of the earlier run is being determined.
    TakenOver,
    /// Nothing began.
    Release,
    /// Something may have been done.
    Abandon,
    /// Nothing is left to do. The claim was settled, or its lease was lost and another owner may
    /// have claimed the operation.
    Nothing,
}

/// A claim with a run under way.
///
/// Dropping it settles the claim in the background, according to the progress of the run.
pub(super) struct ActiveClaim<St: Store> {
    shared: Arc<Shared<St>>,
    hold: Hold,
    settlement: AtomicU8,
}

impl<St: Store> ActiveClaim<St> {
    /// Creates a claim under which nothing has begun yet.
    ///
    /// `takes_over` is `true` if its operation was unknown.
    pub(super) fn new(shared: Arc<Shared<St>>, hold: Hold, takes_over: bool) -> Self {
        let settlement = if takes_over { Settlement::TakenOver } else { Settlement::Release };
        Self { shared, hold, settlement: AtomicU8::new(settlement as u8) }
    }

    pub(super) fn shared(&self) -> &Shared<St> {
        &self.shared
    }

    pub(super) fn hold(&self) -> Hold {
        self.hold
    }

    /// Sets the way to settle the claim if it ends from now on.
    pub(super) fn set_settlement(&self, settlement: Settlement) {
        self.settlement.store(settlement as u8, Ordering::Release);
    }

    /// Returns whether something may have been done, by this run or by the earlier one.
    pub(super) fn has_begun(&self) -> bool {
        matches!(self.settlement(), Settlement::TakenOver | Settlement::Abandon)
    }

    fn settlement(&self) -> Settlement {
        match self.settlement.load(Ordering::Acquire) {
            set if set == Settlement::TakenOver as u8 => Settlement::TakenOver,
            set if set == Settlement::Release as u8 => Settlement::Release,
            set if set == Settlement::Abandon as u8 => Settlement::Abandon,
            _ => Settlement::Nothing,
        }
    }

    /// Settles the claim before the caller gets its response.
    ///
    /// An immediate retry then finds it settled. A step that fails is retried in the background.
    pub(super) async fn settle(&self) {
        let settlement = self.settlement();
        if step(&self.shared, self.hold, settlement).await.is_ok() {
            self.set_settlement(Settlement::Nothing);
        }
    }
}

impl<St: Store> Drop for ActiveClaim<St> {
    fn drop(&mut self) {
        in_background(&self.shared, self.hold, self.settlement());
    }
}

async fn step<St: Store>(
    shared: &Shared<St>,
    hold: Hold,
    settlement: Settlement,
) -> Result<StepOutcome, StoreError> {
    let unknown_for = shared.config.unknown_for;
    match settlement {
        Settlement::TakenOver | Settlement::Release => {
            shared.step(shared.store.release(&hold.key, &hold.owner, unknown_for)).await
        }
        Settlement::Abandon => {
            let written = shared.step(shared.store.abandon(&hold, unknown_for)).await;
            if let Ok(StepOutcome::Applied) = written {
                shared.became_unknown(hold);
            }
            written
        }
        Settlement::Nothing => Ok(StepOutcome::Applied),
    }
}

/// The pauses between the releases of a claim that may still be on its way.
///
/// The claim may arrive after the first release. Without the later releases, it would then block
/// an operation that has no run.
const RELEASES: [Duration; 5] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(800),
    Duration::from_millis(3_200),
    Duration::from_millis(12_800),
];

/// Releases a claim whose result is not known, without blocking the caller.
fn release_until_it_arrives<St: Store>(shared: &Arc<Shared<St>>, hold: Hold) {
    spawn(shared, |shared| async move {
        let mut released = step(&shared, hold, Settlement::Release).await.is_ok();
        for pause in RELEASES {
            sleep(pause).await;
            released = step(&shared, hold, Settlement::Release).await.is_ok();
        }
        if !released {
            in_background(&shared, hold, Settlement::Release);
        }
    });
}

/// Settles a claim without blocking the caller, while its lease lasts.
///
/// After the lease, the store brings the record up to date by itself.
fn in_background<St: Store>(shared: &Arc<Shared<St>>, hold: Hold, settlement: Settlement) {
    if settlement == Settlement::Nothing {
        return;
    }
    spawn(shared, |shared| async move {
        let end = Instant::now() + shared.config.lease;
        let mut pause = Duration::from_millis(50);
        while step(&shared, hold, settlement).await.is_err() && Instant::now() + pause < end {
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    });
}

/// Spawns the future that settles a claim.
///
/// It spawns nothing if too many claims are being settled already, because they must not pile up
/// while a store is down. It also spawns nothing without a runtime, because the process is then
/// about to end. In both cases, the claim ends with its lease.
fn spawn<St, F>(shared: &Arc<Shared<St>>, settle: impl FnOnce(Arc<Shared<St>>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let Ok(runtime) = Handle::try_current() else { return };
    let Some(slot) = shared.settling.enter() else { return };
    let settling = settle(Arc::clone(shared));
    runtime.spawn(async move {
        let _slot = slot;
        settling.await;
    });
}
