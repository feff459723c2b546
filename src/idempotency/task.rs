//! A run, in its own task, so that its caller can leave.

use std::{
    any::Any,
    future::{Future, poll_fn},
    panic::resume_unwind,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};
use tower_service::Service;
use tracing::{Instrument, Span};

use super::{
    Completed, Record, Run, RunOutcome, SettleUnknown, Settled, StepOutcome, Store,
    claim::{Granted, RunPermit},
    config::Effect,
    counts::count,
    lease::Lease,
    record::completed,
    renew::RenewedLease,
    rules::Rules,
    settle::{ActiveClaim, Settlement},
    shared::Shared,
};
use crate::{
    CarryRejection,
    call::{
        catch_panic::CatchPanic,
        deadline::{Deadline, DeadlineElapsed},
        hop::Hop,
        race::{Either, race},
    },
    error::IdempotencyReason,
    keep::Kept,
};

/// The message about a run that its caller receives.
pub(super) struct Reply<R, E> {
    ended: Ended<R, E>,
    hop: Hop,
}

enum Ended<R, E> {
    Answered(Result<R, E>),
    Rejected(IdempotencyReason),
    Panicked(Box<dyn Any + Send>),
}

/// Spawns a run, and waits for its result.
pub(super) async fn detached<St, R, E, F>(
    shared: &Shared<St>,
    run: impl FnOnce(oneshot::Sender<Reply<R, E>>) -> F,
) -> Result<R, E>
where
    E: CarryRejection,
    F: Future<Output = ()> + Send + 'static,
{
    let (answer, answered) = oneshot::channel();
    tokio::spawn(run(answer).instrument(Span::current()));
    match answered.await {
        Ok(Reply { ended, hop }) => {
            hop.report_again();
            match ended {
                Ended::Answered(result) => result,
                Ended::Rejected(reason) => Err(shared.reject_counted(reason)),
                Ended::Panicked(panic) => resume_unwind(panic),
            }
        }
        // Only a runtime that shuts down drops a run.
        Err(_) => Err(shared.reject(IdempotencyReason::Unknown)),
    }
}

/// Does the work of a claim, records its result, and replies to the caller.
pub(super) async fn run<S, Req, St, K, C, Q, R, U>(
    rules: Arc<Rules<K, C, Q, R, U>>,
    mut service: S,
    request: Req,
    granted: Granted<St>,
    permit: RunPermit,
    answer: oneshot::Sender<Reply<R::Response, S::Error>>,
) where
    S: Service<Req, Error: CarryRejection>,
    St: Store,
    R: Record<Req, S::Response, S::Error, Payload = St::Payload>,
    U: SettleUnknown<S::Response>,
{
    let Granted { shared, hold, run, sent, pending } = granted;
    let renewed = RenewedLease::new(Arc::clone(&shared), hold, sent);
    let claim = ActiveClaim::new(pending, hold, run.previous_fence().is_some());
    if answer.is_closed() {
        claim.settle().await;
        return;
    }

    let limit = Deadline::after(shared.config.run_limit);
    let work = work(&rules, &mut service, request, run, renewed.lease(), &claim);
    let work = Hop::observe(CatchPanic { future: Deadline::scope(limit, work) });
    // A result that is ready wins over the end of its lease. The store decides whether it is in
    // time.
    let (work, hop) = match race(work, renewed.lease().over()).await {
        Either::Left((Ok(Ok(work)), hop)) => (work, hop),
        Either::Left((Ok(Err(DeadlineElapsed { .. })), hop)) => (Work::TimedOut, hop),
        Either::Left((Err(panic), hop)) => (Work::Panicked(panic), hop),
        Either::Right(()) => (Work::LeaseLost, Hop::default()),
    };

    let ended = settle(work, renewed.lease(), &claim, &hop).await;
    drop((renewed, permit));
    shared.sweep_now_and_then();
    // The caller may have left.
    let _ = answer.send(Reply { ended, hop });
}

/// The result of the work itself, before it is recorded.
enum Work<P, R, E> {
    /// The response, and its record. `None` if the response broke off.
    Recorded(R, Option<Completed<P>>),
    /// A result that is not recorded.
    Passed(Result<R, E>, RunOutcome),
    Rejected(IdempotencyReason),
    LeaseLost,
    TimedOut,
    Panicked(Box<dyn Any + Send>),
}

/// Settles an unknown operation, or calls the service, and takes the part of the result to record.
async fn work<S, Req, St, K, C, Q, R, U>(
    rules: &Rules<K, C, Q, R, U>,
    service: &mut S,
    request: Req,
    run: Run,
    lease: &Lease,
    claim: &ActiveClaim<St>,
) -> Work<R::Payload, R::Response, S::Error>
where
    S: Service<Req, Error: CarryRejection>,
    St: Store,
    R: Record<Req, S::Response, S::Error>,
    U: SettleUnknown<S::Response>,
{
    let shared = claim.shared();
    let settled = match run.previous_fence() {
        None => Settled::Never,
        Some(_) => {
            count(&shared.counts.takeovers);
            rules.on_unknown.settle(run).await
        }
    };
    let result = match settled {
        Settled::Completed(response) => Ok(response),
        Settled::StillUnknown => return Work::Rejected(IdempotencyReason::Unknown),
        Settled::Never => {
            claim.set_settlement(Settlement::Release);
            if let Err(error) = poll_fn(|cx| service.poll_ready(cx)).await {
                return Work::Passed(Err(error), RunOutcome::NotStarted);
            }
            if shared.config.effect() == Effect::Marked {
                let hold = claim.hold();
                let step = shared.store.mark_started(&hold);
                match shared.step("mark_started", step).await {
                    Ok(StepOutcome::Applied) => {}
                    Ok(StepOutcome::Stale) | Err(_) => {
                        return Work::Rejected(IdempotencyReason::StoreUnavailable);
                    }
                }
            }
            // The claim or a step took so long that another process may run the operation
            // already.
            if lease.end() <= Instant::now() {
                return Work::Rejected(IdempotencyReason::StoreUnavailable);
            }
            if shared.config.effect() != Effect::Transactional {
                claim.set_settlement(Settlement::Abandon);
            }
            service.call(request).await
        }
    };
    match (rules.record.classify(result.as_ref()), result) {
        (RunOutcome::Completed, Ok(response)) => {
            let Kept { mut response, part } = rules.record.keep(response).await;
            let completed = completed(part);
            if completed.is_some() {
                rules.record.mark_done(&mut response);
            }
            Work::Recorded(response, completed)
        }
        // Only a response can be recorded and replayed.
        (RunOutcome::Completed, Err(error)) => Work::Passed(Err(error), RunOutcome::Unknown),
        (verdict, result) => {
            Work::Passed(result.map(|response| rules.record.pass(response)), verdict)
        }
    }
}

/// Records the result of the work, and returns how the run has ended.
async fn settle<St: Store, R, E>(
    work: Work<St::Payload, R, E>,
    lease: &Lease,
    claim: &ActiveClaim<St>,
    hop: &Hop,
) -> Ended<R, E> {
    let (shared, hold) = (claim.shared(), claim.hold());
    match work {
        Work::LeaseLost if claim.has_begun() => {
            shared.lease_lost(hold);
            shared.became_unknown(hold);
            claim.set_settlement(Settlement::Nothing);
            Ended::Rejected(IdempotencyReason::Unknown)
        }
        Work::LeaseLost => {
            shared.lease_lost(hold);
            claim.settle().await;
            Ended::Rejected(IdempotencyReason::StoreUnavailable)
        }
        Work::Panicked(panic) => {
            claim.settle().await;
            Ended::Panicked(panic)
        }
        Work::TimedOut => {
            let has_begun = claim.has_begun();
            claim.settle().await;
            Ended::Rejected(match has_begun {
                true => IdempotencyReason::Unknown,
                // The service was never ready within the run limit.
                false => IdempotencyReason::Full,
            })
        }
        Work::Rejected(reason) => {
            if reason == IdempotencyReason::Unknown {
                count(&shared.counts.unknowns);
            }
            claim.settle().await;
            Ended::Rejected(reason)
        }
        Work::Passed(result, verdict) => {
            // An attempt that a retry beneath sent before the rejection may have had an effect.
            if verdict == RunOutcome::NotStarted && !(hop.resent() && result.is_err()) {
                claim.set_settlement(Settlement::Release);
            }
            claim.settle().await;
            Ended::Answered(result)
        }
        Work::Recorded(response, None) => {
            claim.settle().await;
            Ended::Answered(Ok(response))
        }
        Work::Recorded(response, Some(completed)) => {
            // From here on, the operation is done, even if its result cannot be recorded.
            claim.set_settlement(Settlement::Nothing);
            match complete(claim, lease, completed).await {
                // The effect was committed with the record, or not at all. The next claim finds
                // out.
                Some(StepOutcome::Stale) if shared.config.effect() == Effect::Transactional => {
                    shared.lease_lost(hold);
                    Ended::Rejected(IdempotencyReason::StoreUnavailable)
                }
                Some(StepOutcome::Stale) => {
                    shared.lease_lost(hold);
                    shared.became_unknown(hold);
                    Ended::Rejected(IdempotencyReason::Unknown)
                }
                Some(StepOutcome::Applied) => Ended::Answered(Ok(response)),
                // The operation is done, but its result is not recorded. The operation becomes
                // unknown when its lease ends.
                None => {
                    shared.became_unknown(hold);
                    Ended::Answered(Ok(response))
                }
            }
        }
    }
}

/// Records a result, and tries again until the current lease ends.
///
/// It does not wait for renewals of the lease, because the caller is waiting.
async fn complete<St: Store>(
    claim: &ActiveClaim<St>,
    lease: &Lease,
    completed: Completed<St::Payload>,
) -> Option<StepOutcome> {
    let (shared, hold) = (claim.shared(), claim.hold());
    let mut pause = Duration::from_millis(20);
    let end = lease.end();
    loop {
        let step = shared.store.complete(&hold, completed.clone(), shared.config.ttl);
        if let Ok(written) = shared.step("complete", step).await {
            return Some(written);
        }
        if end.min(lease.end()) <= Instant::now() + pause {
            return None;
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}
