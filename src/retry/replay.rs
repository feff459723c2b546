use std::{any::type_name, fmt};

/// Which requests may be sent again, and how a copy is made of one.
///
/// That a request can be cloned does not make it safe to repeat, so there is no default.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot replay a request of type `{Req}`",
    note = "`ReplayClones` replays requests that are `Clone`",
    note = "for others, or to choose which: \
            `replay_fn(|request: &{Req}| -> Option<{Req}> {{ .. }})`"
)]
pub trait Replay<Req> {
    /// A copy of a request that may be sent again, whatever became of the first; `None` if this one
    /// must be sent only once.
    ///
    /// Asked before each attempt but the last, which sends the original.
    fn replay(&self, request: &Req) -> Option<Req>;

    /// A copy that may be sent again only if the first is proven never to have reached the service
    /// ([`RetryHint::Unsent`](crate::RetryHint)). Asked when [`replay`](Self::replay) gives none.
    fn replay_unsent(&self, request: &Req) -> Option<Req> {
        let _ = request;
        None
    }

    /// An attempt has failed, and `request`, which was kept, is about to be sent again: ends whatever
    /// of the attempt before may still be under way, such as a body that is being sent. `false` if the
    /// request cannot be sent again after all; then the failure is returned as it is.
    ///
    /// Asked last, when nothing else stands against the retry, and before the pause.
    fn prepare(&self, request: &Req) -> bool {
        let _ = request;
        true
    }
}

/// Replays every request, by cloning it. To be asked for by name: only who calls knows that all of
/// the requests are safe to repeat.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplayClones;

#[diagnostic::do_not_recommend]
impl<Req: Clone> Replay<Req> for ReplayClones {
    fn replay(&self, request: &Req) -> Option<Req> {
        Some(request.clone())
    }
}

/// A function as a [`Replay`] policy; made by [`replay_fn`].
#[derive(Clone, Copy)]
pub struct ReplayFn<F> {
    f: F,
}

/// Makes a policy of a function that gives a copy of each request that may be sent again.
pub fn replay_fn<F, Req>(f: F) -> ReplayFn<F>
where
    F: Fn(&Req) -> Option<Req>,
{
    ReplayFn { f }
}

impl<F, Req> Replay<Req> for ReplayFn<F>
where
    F: Fn(&Req) -> Option<Req>,
{
    fn replay(&self, request: &Req) -> Option<Req> {
        (self.f)(request)
    }
}

impl<F> fmt::Debug for ReplayFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReplayFn({})", type_name::<F>())
    }
}
