//! Policies for unknown operations.

use std::{any::type_name, fmt, future::Future};

use super::{OnUnknown, Run};

/// Decides about an unknown operation that is requested again.
pub trait SettleUnknown<Res> {
    /// The part of the policy that the store needs: whether the operation is claimed at all.
    const ON_UNKNOWN: OnUnknown;

    /// Finds the outcome, for the one caller that has claimed the operation.
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
    /// The operation was not done, and an earlier run can no longer do it. It is run now.
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
/// The effect must be idempotent, or keyed where it happens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rerun;

impl<Res: Send> SettleUnknown<Res> for Rerun {
    const ON_UNKNOWN: OnUnknown = OnUnknown::TakeOver;

    async fn settle(&self, _: Run) -> Settled<Res> {
        Settled::Never
    }
}

/// A policy that runs the operation again from its last checkpoint.
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
/// One caller at a time asks, under its own claim, whose fence is larger than the fence of the
/// earlier run.
///
/// The function may return [`Settled::Never`] only after it has made the effect impossible. It is
/// not enough to see that nothing was charged. A worker that was paused, not killed, may be about
/// to charge, and then there are two charges. Therefore, take what the effect needs before you
/// look. Reserve the [child key](Run::child_key) where the effect happens, or raise the
/// [fence](Run::fence) there, so that the earlier run finds it taken.
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
