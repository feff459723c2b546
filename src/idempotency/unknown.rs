//! Policies for unknown operations.

use std::{any::type_name, fmt, future::Future};

use super::{OnUnknown, Run};

/// Decides about an unknown operation that is requested again.
///
/// Use [`Reconcile`] if a closure is enough.
pub trait SettleUnknown<Res> {
    /// The part of the policy that the store needs. With [`OnUnknown::Keep`], the request is
    /// rejected without a call of [`settle`](Self::settle).
    const ON_UNKNOWN: OnUnknown;

    /// Finds the outcome of the operation, for the one caller that has claimed it.
    ///
    /// It counts towards the [`run_limit`](super::IdempotencyBuilder::run_limit). If it takes too
    /// long, panics or is dropped, the outcome stays unknown.
    fn settle(&self, run: Run) -> impl Future<Output = Settled<Res>> + Send;
}

/// The outcome of an unknown operation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Settled<Res> {
    /// The operation was done, with this result.
    ///
    /// The result is recorded like a new response of the service.
    Completed(Res),
    /// The operation was not done, and an earlier run can no longer do it. It is run again now.
    Never,
    /// The outcome is still unknown.
    StillUnknown,
}

/// The default policy, which keeps an operation unknown until an operator resolves it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quarantine;

impl<Res: Send> SettleUnknown<Res> for Quarantine {
    const ON_UNKNOWN: OnUnknown = OnUnknown::Keep;

    async fn settle(&self, _: Run) -> Settled<Res> {
        Settled::StillUnknown
    }
}

/// A policy that runs the operation again.
///
/// A second effect must do no harm, or the system with the effect must reject it by
/// [`Run::child_key`] or [`Run::fence`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Rerun;

impl<Res: Send> SettleUnknown<Res> for Rerun {
    const ON_UNKNOWN: OnUnknown = OnUnknown::TakeOver;

    async fn settle(&self, _: Run) -> Settled<Res> {
        Settled::Never
    }
}

/// A policy that runs the operation again from its last [checkpoint](Run::checkpoint).
///
/// The service must read the checkpoint and continue there. The work between two checkpoints may
/// be done twice.
#[derive(Clone, Copy, Debug, Default)]
pub struct Resume;

impl<Res: Send> SettleUnknown<Res> for Resume {
    const ON_UNKNOWN: OnUnknown = OnUnknown::TakeOver;

    async fn settle(&self, _: Run) -> Settled<Res> {
        Settled::Never
    }
}

/// A policy that asks a function: `Fn(Run) -> impl Future<Output = Settled<Res>>`.
///
/// `Res` is the response of the wrapped service. In front of the stack of an `HttpServerLayer` it
/// is a `Response<ResponseBody<B>>`, which `http::response` creates, as [the
/// guide](crate::guide::idempotency#unknown-outcomes) shows.
///
/// It asks for one caller at a time. The caller has its own claim, whose fence is larger than the
/// fence of the earlier run.
///
/// The function may return [`Settled::Never`] only after it has made the effect of the earlier run
/// impossible. It is not enough to see that nothing was charged. The earlier run may only be
/// paused, just before it charges. If the operation is run again, there are then two charges.
///
/// To prevent this, reserve the [child key](Run::child_key) or raise the [fence](Run::fence) in
/// the system with the effect before you look. That system then rejects the earlier run.
#[derive(Clone, Copy)]
pub struct Reconcile<F>(pub(super) F);

impl<F, Fut, Res> SettleUnknown<Res> for Reconcile<F>
where
    F: Fn(Run) -> Fut,
    Fut: Future<Output = Settled<Res>> + Send,
{
    const ON_UNKNOWN: OnUnknown = OnUnknown::TakeOver;

    fn settle(&self, run: Run) -> impl Future<Output = Settled<Res>> + Send {
        (self.0)(run)
    }
}

impl<F> fmt::Debug for Reconcile<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reconcile({})", type_name::<F>())
    }
}
