//! The task that checks the endpoints of a set.

use std::sync::{Arc, Weak};

use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{
    check::DynCheck,
    list::Entry,
    shared::{Checks, Shared},
};
use crate::call::{catch_panic::CatchPanic, race::race};

/// Returns the checks of a set, whose task has not begun.
pub(super) fn watch<S>(set: &Weak<Shared<S>>, check: DynCheck<S>) -> Checks
where
    S: Clone + Send + 'static,
{
    let (set, news) = (Weak::clone(set), Arc::<Notify>::default());
    let woken = Arc::clone(&news);
    let run = move || {
        let (set, check) = (Weak::clone(&set), Arc::clone(&check));
        Box::pin(run(set, Arc::clone(&woken), check)) as _
    };
    Checks::new(run, news)
}

/// Checks the endpoints until the set is dropped.
///
/// It owns no part of the set while it waits.
async fn run<S>(shared: Weak<Shared<S>>, news: Arc<Notify>, check: DynCheck<S>)
where
    S: Clone + Send + 'static,
{
    // Dropping it ends the checks that run.
    let mut checks = JoinSet::new();
    loop {
        let Some(set) = shared.upgrade() else { return };
        while checks.try_join_next().is_some() {}
        let (due, next) = set.due(Instant::now());
        let limit = set.config.check_timeout;
        drop(set);
        for entry in due {
            let (shared, check) = (Weak::clone(&shared), Arc::clone(&check));
            checks.spawn(async move {
                // The clone of the service is code of the user too.
                let checked = async { check(entry.slot.service().0).await };
                let passed = timeout(limit, CatchPanic { future: checked }).await;
                settle(&shared, &entry, matches!(passed, Ok(Ok(true))));
            });
        }
        match next {
            Some(next) => _ = race(news.notified(), sleep_until(next)).await,
            None => news.notified().await,
        }
    }
}

fn settle<S>(shared: &Weak<Shared<S>>, Entry { endpoint, slot }: &Entry<S>, passed: bool) {
    let Some(shared) = shared.upgrade() else { return };
    let renewals = slot.renewals();
    if shared.checked(endpoint, passed) && !passed {
        // No call renews a service that gets no calls, and it may be dead for ever.
        slot.renew(renewals);
    }
}
