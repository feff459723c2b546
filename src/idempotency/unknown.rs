//! What is done about an operation of which nobody knows what became.

use std::{any::type_name, fmt, future::Future};

use super::{OnUnknown, Run};

/// Decides about an unknown operation that is asked for again.
pub trait SettleUnknown<Res> {
    /// Whether it is claimed at all.
    const ON_UNKNOWN: OnUnknown;

    /// Finds out what became of it, for the one caller that has claimed it.
    fn settle(&self, run: Run) -> impl Future<Output = Settled<Res>> + Send;
}

/// What became of an unknown operation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Settled<Res> {
    /// It was done, and this is its result: it is recorded as if the service had just answered so.
    Completed(Res),
    /// It was not done, and cannot be done any more by a run that was lost: it is run now.
    Never,
    /// It is still not known.
    StillUnknown,
}

/// Leaves it alone, until an operator says what became of it. The default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quarantine;

impl<Res: Send> SettleUnknown<Res> for Quarantine {
    const ON_UNKNOWN: OnUnknown = OnUnknown::Keep;

    async fn settle(&self, _: Run) -> Settled<Res> {
        Settled::StillUnknown
    }
}

/// Runs it again: the effect is idempotent, or keyed where it happens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rerun;

impl<Res: Send> SettleUnknown<Res> for Rerun {
    const ON_UNKNOWN: OnUnknown = OnUnknown::TakeOver;

    async fn settle(&self, _: Run) -> Settled<Res> {
        Settled::Never
    }
}

/// Runs it again from its last checkpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct Resume;

impl<Res: Send> SettleUnknown<Res> for Resume {
    const ON_UNKNOWN: OnUnknown = OnUnknown::TakeOver;

    async fn settle(&self, _: Run) -> Settled<Res> {
        Settled::Never
    }
}

/// Asks a function what became of it: `Fn(Run) -> impl Future<Output = Settled<Res>>`.
///
/// One caller at a time asks, under a claim of its own with a larger fence than that of the run that was
/// lost.
///
/// It may say [`Settled::Never`] only after it has made the effect impossible. To see that nothing was
/// charged is not enough: a worker that was paused and not killed may be about to charge, and then there are
/// two. So take what the effect needs before you look: reserve the
/// [child key](Run::child_key) where the effect happens, or raise the [fence](Run::fence) there, so that
/// the run that was lost finds it taken.
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
