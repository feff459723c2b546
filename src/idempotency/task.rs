//! A run: in a task of its own, so that who asked for it can leave.

use std::{
    any::Any,
    future::poll_fn,
    panic::resume_unwind,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};
use tower_service::Service;
use tracing::{Instrument, Span};

use super::{
    Completed, Hold, Kept, Previous, Record, Run, SettleUnknown, Settled, Store, Verdict, Written,
    config::Effect,
    counts::count,
    lease::Lease,
    renew::Leased,
    run::Checkpoints,
    runs::RunSlot,
    settle::{Debt, Owed, Unbegun},
    shared::{Core, Shared},
    waiting::Running,
};
use crate::{
    CarryRejection, Deadline, DeadlineElapsed, Hop, IdempotencyReason,
    call::{
        catch_panic::CatchPanic,
        race::{Either, race},
    },
};

/// A claim that was granted to this process.
pub(super) struct Granted<St: Store> {
    hold: Hold,
    run: Run,
    /// When the claim was sent.
    sent: Instant,
    unbegun: Unbegun<St>,
}

impl<St: Store> Granted<St> {
    pub(super) fn new(
        shared: &Arc<Shared<St>>,
        hold: Hold,
        previous: Option<Previous>,
        sent: Instant,
        unbegun: Unbegun<St>,
    ) -> Self {
        let checkpoints: Arc<dyn Checkpoints> = Arc::clone(shared) as _;
        Self { hold, run: Run::new(hold, previous, checkpoints), sent, unbegun }
    }

    pub(super) fn run(&self) -> &Run {
        &self.run
    }
}

/// What the caller is told of a run.
struct Reply<R, E> {
    ended: Ended<R, E>,
    hop: Hop,
}

enum Ended<R, E> {
    Answered(Result<R, E>),
    Refused(IdempotencyReason),
    Panicked(Box<dyn Any + Send>),
}

/// What a run takes up in this process until it is over.
pub(super) type Place = (Arc<RunSlot>, Running);

/// Runs the service in a task of its own, and waits for its answer.
pub(super) async fn detached<S, Req, St, K, C, Q, R, U>(
    core: Arc<Core<St, K, C, Q, R, U>>,
    service: S,
    request: Req,
    granted: Granted<St>,
    place: Place,
) -> Result<R::Response, S::Error>
where
    Req: Send + 'static,
    S: Service<Req, Error: CarryRejection + Send, Response: Send, Future: Send> + Send + 'static,
    S::Response: 'static,
    S::Error: 'static,
    St: Store,
    K: Send + Sync + 'static,
    C: Send + Sync + 'static,
    Q: Send + Sync + 'static,
    R: Record<S::Response, S::Error, Payload = St::Payload, Response: Send + 'static>
        + Send
        + Sync
        + 'static,
    U: SettleUnknown<S::Response> + Send + Sync + 'static,
{
    let shared = Arc::clone(&core.shared);
    let (answer, answered) = oneshot::channel();
    let task = run(core, service, request, granted, place, answer);
    tokio::spawn(task.instrument(Span::current()));
    match answered.await {
        Ok(Reply { ended, hop }) => {
            hop.report_again();
            match ended {
                Ended::Answered(result) => result,
                Ended::Refused(reason) => Err(shared.refuse_counted(reason)),
                Ended::Panicked(panic) => resume_unwind(panic),
            }
        }
        // Only a runtime that shuts down drops a run.
        Err(_) => Err(shared.refuse(IdempotencyReason::Unknown)),
    }
}

/// What came of the work itself, before it is written down.
enum Work<P, R, E> {
    Kept(Kept<P, R>),
    /// Not to be recorded.
    Passed(Result<R, E>, Verdict),
    Refused(IdempotencyReason),
}

async fn run<S, Req, St, K, C, Q, R, U>(
    core: Arc<Core<St, K, C, Q, R, U>>,
    mut service: S,
    request: Req,
    granted: Granted<St>,
    place: Place,
    answer: oneshot::Sender<Reply<R::Response, S::Error>>,
) where
    S: Service<Req, Error: CarryRejection>,
    St: Store,
    R: Record<S::Response, S::Error, Payload = St::Payload>,
    U: SettleUnknown<S::Response>,
{
    let Granted { hold, run, sent, unbegun } = granted;
    let shared = &core.shared;
    let leased = Leased::new(Arc::clone(shared), hold, sent);
    let debt = Debt::new(Arc::clone(shared), hold);
    unbegun.begin();
    if answer.is_closed() {
        debt.settle().await;
        return;
    }

    // Not so while an unknown operation is being settled, which may have been done by the run that was lost.
    let free = AtomicBool::new(run.previous_fence().is_none());
    let begun = || debt.owes() == Owed::Abandon || !free.load(Ordering::Acquire);
    let work = async {
        let settled = match run.previous_fence() {
            None => Settled::Never,
            Some(_) => {
                count(&shared.counts.takeovers);
                core.on_unknown.settle(run).await
            }
        };
        let result = match settled {
            Settled::Completed(response) => Ok(response),
            Settled::StillUnknown => return Work::Refused(IdempotencyReason::Unknown),
            Settled::Never => {
                free.store(true, Ordering::Release);
                if let Err(error) = poll_fn(|cx| service.poll_ready(cx)).await {
                    return Work::Passed(Err(error), Verdict::NotStarted);
                }
                if shared.config.effect == Effect::Marked {
                    match shared.step(shared.store.mark_started(&hold)).await {
                        Ok(Written::Applied) => {}
                        Ok(Written::Stale) | Err(_) => {
                            return Work::Refused(IdempotencyReason::StoreUnavailable);
                        }
                    }
                }
                // A claim or a step that took long: another may run it already.
                if leased.lease().end() <= Instant::now() {
                    return Work::Refused(IdempotencyReason::StoreUnavailable);
                }
                if shared.config.effect != Effect::Transactional {
                    debt.owe(Owed::Abandon);
                }
                service.call(request).await
            }
        };
        match (core.record.judge(result.as_ref()), result) {
            (Verdict::Completed, Ok(response)) => Work::Kept(core.record.keep(response).await),
            // An error has no form in which it could be given again.
            (Verdict::Completed, Err(error)) => Work::Passed(Err(error), Verdict::Unknown),
            (verdict, result) => {
                Work::Passed(result.map(|response| core.record.pass(response)), verdict)
            }
        }
    };
    let limit = Deadline::after(shared.config.run_limit);
    let work = Hop::observe(CatchPanic { future: Deadline::scope(limit, work) });
    // A result that is there wins over the end of its lease: the store decides whether it is in time.
    let (worked, hop) = match race(work, leased.lease().over()).await {
        Either::Left((worked, hop)) => (Some(worked), hop),
        Either::Right(()) => (None, Hop::default()),
    };

    let ended = match worked {
        None if begun() => {
            shared.lease_lost(hold);
            shared.became_unknown(hold);
            debt.owe(Owed::Nothing);
            Ended::Refused(IdempotencyReason::Unknown)
        }
        None => {
            shared.lease_lost(hold);
            debt.settle().await;
            Ended::Refused(IdempotencyReason::StoreUnavailable)
        }
        Some(Err(panic)) => {
            debt.settle().await;
            Ended::Panicked(panic)
        }
        Some(Ok(Err(DeadlineElapsed { .. }))) => {
            let begun = begun();
            debt.settle().await;
            Ended::Refused(match begun {
                true => IdempotencyReason::Unknown,
                // The service was not ready in all that time.
                false => IdempotencyReason::Full,
            })
        }
        Some(Ok(Ok(Work::Refused(reason)))) => {
            if reason == IdempotencyReason::Unknown {
                count(&shared.counts.unknowns);
            }
            debt.settle().await;
            Ended::Refused(reason)
        }
        Some(Ok(Ok(Work::Passed(result, verdict)))) => {
            // What a retry beneath had begun before it was refused may have done something.
            if verdict == Verdict::NotStarted && !(hop.resent() && result.is_err()) {
                debt.owe(Owed::Release);
            }
            debt.settle().await;
            Ended::Answered(result)
        }
        Some(Ok(Ok(Work::Kept(Kept { response, completed: None })))) => {
            debt.settle().await;
            Ended::Answered(Ok(response))
        }
        Some(Ok(Ok(Work::Kept(Kept { response, completed: Some(completed) })))) => {
            // From here on it is done, whether or not that can be written down.
            debt.owe(Owed::Nothing);
            match complete(shared, leased.lease(), hold, completed).await {
                // The effect is committed with the record or not at all: the next claim will find which.
                Some(Written::Stale) if shared.config.effect == Effect::Transactional => {
                    shared.lease_lost(hold);
                    Ended::Refused(IdempotencyReason::StoreUnavailable)
                }
                Some(Written::Stale) => {
                    shared.lease_lost(hold);
                    shared.became_unknown(hold);
                    Ended::Refused(IdempotencyReason::Unknown)
                }
                Some(Written::Applied) => Ended::Answered(Ok(response)),
                // Not recorded, and true: the key becomes unknown when its lease ends.
                None => {
                    shared.became_unknown(hold);
                    Ended::Answered(Ok(response))
                }
            }
        }
    };
    drop((leased, place));
    shared.sweep_now_and_then();
    // Whoever asked may have left.
    let _ = answer.send(Reply { ended, hop });
}

/// Records a result, and tries again until the lease ends that there is now: it may be renewed for long
/// after, and the caller waits.
async fn complete<St: Store>(
    shared: &Shared<St>,
    lease: &Lease,
    hold: Hold,
    completed: Completed<St::Payload>,
) -> Option<Written> {
    let mut pause = Duration::from_millis(20);
    let end = lease.end();
    loop {
        let step = shared.store.complete(&hold, completed.clone(), shared.config.ttl);
        if let Ok(written) = shared.step(step).await {
            return Some(written);
        }
        if end.min(lease.end()) <= Instant::now() + pause {
            return None;
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}
