//! The task that checks the endpoints of a set.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{
    check::DynCheck,
    check_rate::CheckRate,
    checks::Checks,
    list::Entry,
    shared::{DueCheck, Shared},
};
use crate::call::{catch_panic::CatchPanic, race::race};

/// Returns the checks of a set, whose task has not begun.
pub(super) fn watch<S>(set: &Weak<Shared<S>>, check: DynCheck<S>) -> Checks
where
    S: Clone + Send + 'static,
{
    let (set, wake) = (Weak::clone(set), Arc::<Notify>::default());
    let woken = Arc::clone(&wake);
    let run = move || {
        let (set, check) = (Weak::clone(&set), Arc::clone(&check));
        Box::pin(run(set, Arc::clone(&woken), check)) as _
    };
    Checks::new(run, wake)
}

/// Checks the endpoints until the set is dropped.
///
/// It owns no part of the set while it waits.
async fn run<S>(shared: Weak<Shared<S>>, woken: Arc<Notify>, check: DynCheck<S>)
where
    S: Clone + Send + 'static,
{
    // Dropping it ends the checks that run.
    let mut checks = JoinSet::new();
    let mut rate = CheckRate::default();
    if let Some(set) = shared.upgrade() {
        set.spread_checks(Instant::now());
    }
    loop {
        let Some(set) = shared.upgrade() else { return };
        while checks.try_join_next().is_some() {}
        let (due, next) = set.due(Instant::now(), &mut rate);
        let limit = set.config.check_timeout;
        drop(set);
        for DueCheck { entry, running } in due {
            let (shared, check) = (Weak::clone(&shared), Arc::clone(&check));
            checks.spawn(async move {
                // A service that panics when it is dropped must not end the checks.
                let checked = run_check(&shared, &entry, &check, limit);
                let passed = matches!(CatchPanic { future: checked }.await, Ok(true));
                drop(running);
                if let Some(shared) = shared.upgrade() {
                    shared.checked(&entry.endpoint, passed);
                }
            });
        }
        match next {
            Some(next) => _ = race(woken.notified(), sleep_until(next)).await,
            None => woken.notified().await,
        }
    }
}

/// Checks an endpoint. Returns `true` if it is well.
async fn run_check<S: Clone>(
    shared: &Weak<Shared<S>>,
    Entry { endpoint, slot }: &Entry<S>,
    check: &DynCheck<S>,
    limit: Duration,
) -> bool {
    let mut renewals = 0;
    let current = || {
        let (service, count) = slot.service();
        renewals = count;
        service
    };
    if passes(check, limit, current).await {
        return true;
    }
    if !shared.upgrade().is_some_and(|shared| shared.is_check_failed(endpoint)) {
        return false;
    }
    // The service may be dead for ever, because no call renews it while it gets none. A wrong check
    // fails with a new one too. The old one then stays, and so do its connections.
    let mut new = None;
    let passed = passes(check, limit, || new.insert(slot.make()).clone()).await;
    if let Some(new) = new.filter(|_| passed) {
        slot.replace(renewals, new);
    }
    passed
}

/// Runs the check, which fails if it panics or takes too long.
async fn passes<S>(check: &DynCheck<S>, limit: Duration, service: impl FnOnce() -> S) -> bool {
    // All that is code of the user is in this future.
    let checked = async { timeout(limit, check(service())).await };
    matches!(CatchPanic { future: checked }.await, Ok(Ok(true)))
}
