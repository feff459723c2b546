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

/// A replay policy that knows which HTTP requests are safe to repeat.
///
/// A stack with [`http()`](crate::Stack::http) takes no other: a policy that replays whatever can be
/// cloned would send a payment twice. Implement it for a policy of your own:
///
/// ```
/// use buttress::{
///     Stack,
///     retry::{HttpReplay, Replay, RetryLayer},
/// };
/// use http::{Method, Request};
///
/// /// Replays only what reads.
/// struct Reads;
///
/// impl<B: Clone> Replay<Request<B>> for Reads {
///     fn replay(&self, request: &Request<B>) -> Option<Request<B>> {
///         (request.method() == Method::GET).then(|| request.clone())
///     }
/// }
///
/// impl HttpReplay for Reads {}
///
/// let stack = Stack::new().retry(RetryLayer::new(Reads)).http();
/// # let _ = stack;
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not know which HTTP requests are safe to repeat: it would send a POST \
               again",
    label = "not a replay policy for HTTP",
    note = "use `ReplaySafe::new()`: it replays safe and idempotent methods, and what has an \
            idempotency key",
    note = "to choose by yourself: \
            `replay_fn(|request: &Request<_>| -> Option<Request<_>> {{ .. }})`",
    note = "or implement `buttress::retry::HttpReplay` for a policy of your own"
)]
pub trait HttpReplay {
    /// Returns whether the policy is of no use without [`http()`](crate::Stack::http), of which
    /// [`explain`](crate::Stack::explain) then warns.
    ///
    /// Default: `false`.
    fn needs_http(&self) -> bool {
        false
    }
}

impl<F> HttpReplay for ReplayFn<F> {}

/// A replay policy in a stack that can [`explain`](crate::Stack::explain) itself.
///
/// Every [`HttpReplay`] is one. For any other policy of your own, say
/// `impl DescribeReplay for MyPolicy {}`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not describe itself, which `Stack::explain` asks for",
    note = "write `impl buttress::retry::DescribeReplay for {Self} {{}}`"
)]
pub trait DescribeReplay {
    /// Returns whether the policy is of no use without [`http()`](crate::Stack::http).
    ///
    /// Default: `false`.
    fn needs_http(&self) -> bool {
        false
    }
}

#[diagnostic::do_not_recommend]
impl<P: HttpReplay> DescribeReplay for P {
    fn needs_http(&self) -> bool {
        HttpReplay::needs_http(self)
    }
}

impl DescribeReplay for ReplayClones {}

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
