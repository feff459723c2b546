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

use super::{
    Hold, Owner, StepOutcome, StorageKey, Store, StoreError, runs::RunSlot, shared::Shared,
};

/// A claim that may have been granted and whose effect has not begun.
///
/// Dropping it releases the claim in the background.
pub(super) struct PendingClaim<St: Store> {
    shared: Arc<Shared<St>>,
    key: StorageKey,
    owner: Owner,
    /// `true` if the claim was sent twice, and the first one may still arrive.
    pub(super) sent_twice: bool,
    /// `true` if `Drop` releases the claim.
    release_on_drop: bool,
}

impl<St: Store> PendingClaim<St> {
    pub(super) fn new(shared: Arc<Shared<St>>, key: StorageKey, owner: Owner) -> Self {
        Self { shared, key, owner, sent_twice: false, release_on_drop: true }
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
    /// `true` if another claim of the same owner may still arrive.
    sent_twice: bool,
    settlement: AtomicU8,
}

impl<St: Store> ActiveClaim<St> {
    /// Creates a claim under which nothing has begun yet.
    ///
    /// `takes_over` is `true` if its operation was unknown.
    pub(super) fn new(pending: PendingClaim<St>, hold: Hold, takes_over: bool) -> Self {
        let settlement = if takes_over { Settlement::TakenOver } else { Settlement::Release };
        let (shared, sent_twice) = (Arc::clone(&pending.shared), pending.sent_twice);
        pending.keep();
        Self { shared, hold, sent_twice, settlement: AtomicU8::new(settlement as u8) }
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
            // Now that the run is settled, the first claim would be granted if it arrived.
            let late = self.sent_twice && settlement != Settlement::Nothing;
            self.set_settlement(if late { Settlement::Release } else { Settlement::Nothing });
        }
    }
}

impl<St: Store> Drop for ActiveClaim<St> {
    fn drop(&mut self) {
        match self.settlement() {
            Settlement::TakenOver | Settlement::Release if self.sent_twice => {
                release_until_it_arrives(&self.shared, self.hold);
            }
            settlement => in_background(&self.shared, self.hold, settlement),
        }
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
            let step = shared.store.release(&hold.key, &hold.owner, unknown_for);
            shared.step("release", step).await
        }
        Settlement::Abandon => {
            let written = shared.step("abandon", shared.store.abandon(&hold, unknown_for)).await;
            if let Ok(StepOutcome::Applied) = written {
                shared.became_unknown(hold);
            }
            written
        }
        Settlement::Nothing => Ok(StepOutcome::Applied),
    }
}

/// The time after which a claim that may still be on its way is taken for lost.
///
/// It starts again with each release that fails, because a store that stalls also delays claims.
const ON_ITS_WAY: Duration = Duration::from_secs(30);

/// The first pause between two releases of a claim that may still be on its way.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Releases a claim that may still be on its way, without blocking the caller.
///
/// A claim that is granted after the last release blocks an operation that has no run. If too many
/// claims are on their way already, it is only released now.
fn release_until_it_arrives<St: Store>(shared: &Arc<Shared<St>>, hold: Hold) {
    let Some(slot) = shared.arriving.enter() else {
        return in_background(shared, hold, Settlement::Release);
    };
    spawn(shared, slot, |shared| async move {
        let began = Instant::now();
        let limit = began + shared.config.lease_limit.max(ON_ITS_WAY);
        // A claim that arrives in a pause must be released before its lease ends.
        let longest_pause = (shared.config.lease / 3).max(FIRST_PAUSE);
        let (mut end, mut pause) = (began + ON_ITS_WAY, FIRST_PAUSE);
        loop {
            let released = step(&shared, hold, Settlement::Release).await;
            let now = Instant::now();
            if released.is_err() {
                end = limit.min(now + ON_ITS_WAY);
            }
            if end <= now {
                return;
            }
            sleep(pause.min(end - now)).await;
            pause = (pause * 4).min(longest_pause);
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
    // Claims must not pile up while a store is down. This one ends with its lease.
    let Some(slot) = shared.settling.enter() else { return };
    spawn(shared, slot, |shared| async move {
        let end = Instant::now() + shared.config.lease;
        let mut pause = Duration::from_millis(50);
        while step(&shared, hold, settlement).await.is_err() && Instant::now() + pause < end {
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    });
}

/// Spawns the future that settles a claim and holds this slot.
///
/// It spawns nothing without a runtime, because the process is then about to end. The claim ends
/// with its lease.
fn spawn<St, F>(shared: &Arc<Shared<St>>, slot: RunSlot, settle: impl FnOnce(Arc<Shared<St>>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let Ok(runtime) = Handle::try_current() else { return };
    let settling = settle(Arc::clone(shared));
    runtime.spawn(async move {
        let _slot = slot;
        settling.await;
    });
}
