//! The sources of responses.

use std::{
    any::type_name,
    fmt,
    future::{Future, Ready, ready},
};

use crate::{call::degraded::Reason, sealed::Sealed};

/// The properties of a source of fallback responses, whatever the request is. This trait is sealed.
///
/// [`value`], [`from_fn`] and [`service`](super::service) create the sources. For HTTP, there is
/// also [`http::fallback`](crate::http::fallback).
pub trait FallbackSource: Sealed {
    /// The text of the source for [`Stack::explain`](crate::Stack::explain).
    const DESCRIPTION: &'static str;
    /// `true` if a response can take time. The limit applies then.
    const WAITS: bool = true;
    /// `true` if a response may itself be a failure, as the classifier says.
    const CAN_FAIL: bool = false;
}

/// A source of fallback responses of type `Res` to requests of type `Req`. This trait is sealed.
#[diagnostic::on_unimplemented(
    message = "`{Self}` gives no response of type `{Res}` to a request of type `{Req}`",
    label = "this fallback does not fit the service",
    note = "a value must have the type of the service's response and be `Clone`",
    note = "a closure of `from_fn` returns a future of an `Option<{Res}>`",
    note = "in a stack with `http()`, use `FallbackLayer::http(response)`"
)]
pub trait Respond<Req, Res>: FallbackSource {
    /// The part of a request that is kept until its call has ended.
    type Kept;
    /// The future of a response. Its output is `None` if there is no fallback.
    type Future: Future<Output = Option<Res>>;

    /// Keeps a part of the request.
    fn keep(&self, request: &Req) -> Self::Kept;

    /// Runs a part of the call.
    #[inline]
    fn watch<T>(kept: &mut Self::Kept, piece: impl FnOnce() -> T) -> T {
        let _ = kept;
        piece()
    }

    /// Begins a response. `nothing_began` says that the service has provably not processed the
    /// request.
    ///
    /// Returns `None` if there is no fallback.
    fn respond(
        &self,
        kept: Self::Kept,
        reason: &Reason,
        nothing_began: bool,
    ) -> Option<Self::Future>;
}

/// A value for every call. [`value`] creates it.
#[derive(Clone, Copy, Debug)]
pub struct FallbackValue<T>(T);

/// Creates a source that gives a clone of a value.
pub fn value<T>(value: T) -> FallbackValue<T> {
    FallbackValue(value)
}

impl<T> Sealed for FallbackValue<T> {}

impl<T> FallbackSource for FallbackValue<T> {
    const DESCRIPTION: &'static str = "a value";
    const WAITS: bool = false;
}

impl<T: Clone, Req> Respond<Req, T> for FallbackValue<T> {
    type Kept = ();
    type Future = Ready<Option<T>>;

    #[inline]
    fn keep(&self, _: &Req) {}

    fn respond(&self, (): (), _: &Reason, _: bool) -> Option<Self::Future> {
        Some(ready(Some(self.0.clone())))
    }
}

/// Two closures, of which the second gives the response. [`from_fn`] creates it.
#[derive(Clone, Copy)]
pub struct FallbackFn<G, F> {
    keep: G,
    respond: F,
}

/// Creates a source that calls a closure.
///
/// `keep` runs before each call, and returns what `respond` needs of the request. `|_| ()` keeps
/// nothing. `respond` gets the kept value and the [`Reason`]. It returns a future of the response,
/// or of `None` if there is none for this call.
pub fn from_fn<G, F, Req, K, Fut, Res>(keep: G, respond: F) -> FallbackFn<G, F>
where
    G: Fn(&Req) -> K,
    F: Fn(K, Reason) -> Fut,
    Fut: Future<Output = Option<Res>>,
{
    FallbackFn { keep, respond }
}

impl<G, F> Sealed for FallbackFn<G, F> {}

impl<G, F> FallbackSource for FallbackFn<G, F> {
    const DESCRIPTION: &'static str = "a closure";
}

impl<G, F, Req, K, Fut, Res> Respond<Req, Res> for FallbackFn<G, F>
where
    G: Fn(&Req) -> K,
    F: Fn(K, Reason) -> Fut,
    Fut: Future<Output = Option<Res>>,
{
    type Kept = K;
    type Future = Fut;

    #[inline]
    fn keep(&self, request: &Req) -> K {
        (self.keep)(request)
    }

    fn respond(&self, kept: K, reason: &Reason, _: bool) -> Option<Fut> {
        Some((self.respond)(kept, reason.clone()))
    }
}

impl<G, F> fmt::Debug for FallbackFn<G, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FallbackFn({}, {})", type_name::<G>(), type_name::<F>())
    }
}
