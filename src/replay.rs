use std::{any::type_name, fmt};

/// A policy that decides which requests may be replayed, and copies them.
///
/// There is no default policy, because a request that can be cloned is not necessarily safe to
/// repeat.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot replay a request of type `{Req}`",
    note = "`ReplayClones` replays requests that are `Clone`",
    note = "for others, or to choose which: \
            `replay_fn(|request: &{Req}| -> Option<{Req}> {{ .. }})`"
)]
pub trait Replay<Req> {
    /// Returns a copy of a request that may be replayed even after the service has processed it.
    ///
    /// Returns `None` if the request must be sent only once. The layer calls this method before
    /// each attempt except the last.
    fn replay(&self, request: &Req) -> Option<Req>;

    /// Returns a copy of a request that may be replayed only if the service has not processed it.
    ///
    /// The failure must prove this ([`RetryHint::Unsent`](crate::RetryHint::Unsent) or
    /// [`RetryHint::Unprocessed`](crate::RetryHint::Unprocessed)). The layer calls this method
    /// when [`replay`](Self::replay) returns `None`, and before the last attempt.
    ///
    /// Default: `None`.
    fn replay_unsent(&self, request: &Req) -> Option<Req> {
        let _ = request;
        None
    }

    /// Returns the reason why [`replay`](Self::replay) returns `None` for this request.
    ///
    /// The layer calls it only if a call has failed and is not retried, for the field `reason` of
    /// the event "call not retried", and only if a subscriber is interested in the event. The
    /// request is the one that [`replay_unsent`](Self::replay_unsent) has copied. If that method
    /// returned `None` too, the reason is `policy`.
    ///
    /// Default: `policy`.
    fn reason(&self, request: &Req) -> &'static str {
        let _ = request;
        "policy"
    }

    /// Prepares the kept `request` for another attempt, and returns whether it can be replayed.
    ///
    /// The layer calls this method after an attempt has failed, before the pause, and only when
    /// nothing else prevents the retry. The method must end everything of the failed attempt that
    /// may still be running, such as a body that is still being sent. If it returns `false`, the
    /// call returns the failure unchanged, and the reason in the event is `body_not_kept`.
    ///
    /// Default: `true`.
    fn prepare(&self, request: &Req) -> bool {
        let _ = request;
        true
    }
}

/// A replay policy that knows which HTTP requests are safe to repeat.
///
/// A stack with [`http()`](crate::Stack::http) accepts no other policy. A policy that replays
/// every request that can be cloned would send a payment twice. Implement this trait for your own
/// policy:
///
/// ```
/// use buttress::{
///     Stack,
///     retry::{HttpReplay, Replay, RetryLayer},
/// };
/// use http::{Method, Request};
///
/// /// Replays only reads.
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
    /// Returns whether the policy is useful only in a stack with [`http()`](crate::Stack::http).
    ///
    /// [`explain`](crate::Stack::explain) warns if such a stack lacks it.
    ///
    /// Default: `false`.
    fn needs_http(&self) -> bool {
        false
    }
}

impl<F> HttpReplay for ReplayFn<F> {}

/// A replay policy of a stack that can [`explain`](crate::Stack::explain) itself.
///
/// Every [`HttpReplay`] policy implements it. For any other policy of your own, write
/// `impl DescribeReplay for MyPolicy {}`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not describe itself, which `Stack::explain` asks for",
    note = "write `impl buttress::retry::DescribeReplay for {Self} {{}}`"
)]
pub trait DescribeReplay {
    /// Returns whether the policy is useful only in a stack with [`http()`](crate::Stack::http).
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

/// A policy that replays every request by cloning it.
///
/// It is opt-in, because only the caller can know that every request is safe to repeat.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplayClones;

#[diagnostic::do_not_recommend]
impl<Req: Clone> Replay<Req> for ReplayClones {
    fn replay(&self, request: &Req) -> Option<Req> {
        Some(request.clone())
    }
}

/// A [`Replay`] policy that calls a function. [`replay_fn`] creates it.
#[derive(Clone, Copy)]
pub struct ReplayFn<F> {
    f: F,
}

/// Creates a policy from a function that returns a copy of each request that may be replayed.
///
/// The function returns `None` for a request that must be sent only once.
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
