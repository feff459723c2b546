//! The parts of a fault that depend on the types of the service.

use std::{any::type_name, fmt, time::Duration};

use crate::sealed::Sealed;

/// A fault of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Delay(Duration),
    Error,
    Response,
    LateResponse(Duration),
    LostResponse,
    Hang,
    Partition,
}

impl Fault {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Delay(_) => "delay",
            Self::Error => "error",
            Self::Response => "response",
            Self::LateResponse(_) => "late_response",
            Self::LostResponse => "lost_response",
            Self::Hang => "hang",
            Self::Partition => "partition",
        }
    }
}

/// The type of a closure that is not set.
#[derive(Clone, Copy, Debug)]
pub struct Unset;

/// Creates the errors that are injected. This trait is sealed.
///
/// [`ChaosBuilder::errors_fn`](super::ChaosBuilder::errors_fn) takes a closure.
#[diagnostic::on_unimplemented(
    message = "the closure of `errors_fn` does not return the error `{E}` of the service",
    note = "it takes no parameter, and returns `{E}` or a type that converts into it"
)]
pub trait MakeError<E>: Sealed {
    /// Returns an error, or `None` if no closure is set.
    fn make_error(&self) -> Option<E>;
}

/// Creates the responses that are injected. This trait is sealed.
///
/// [`ChaosBuilder::responses_fn`](super::ChaosBuilder::responses_fn) takes a closure.
#[diagnostic::on_unimplemented(
    message = "the closure of `responses_fn` does not fit a service from `{Req}` to `{Res}`",
    note = "it takes a reference to the request and returns a response"
)]
pub trait MakeResponse<Req, Res>: Sealed {
    /// Returns a response, or `None` if no closure is set.
    fn make_response(&self, request: &Req) -> Option<Res>;
}

/// Selects the requests on the other side of a partition. This trait is sealed.
///
/// [`ChaosBuilder::partition_fn`](super::ChaosBuilder::partition_fn) takes a closure.
#[diagnostic::on_unimplemented(
    message = "the closure of `partition_fn` does not take a reference to a `{Req}`"
)]
pub trait Partition<Req>: Sealed {
    /// Returns `true` if the request does not reach the service.
    fn separates(&self, request: &Req) -> bool;
}

impl Sealed for Unset {}

impl<E> MakeError<E> for Unset {
    fn make_error(&self) -> Option<E> {
        None
    }
}

impl<Req, Res> MakeResponse<Req, Res> for Unset {
    fn make_response(&self, _: &Req) -> Option<Res> {
        None
    }
}

impl<Req> Partition<Req> for Unset {
    fn separates(&self, _: &Req) -> bool {
        false
    }
}

/// A closure of a [`ChaosBuilder`](super::ChaosBuilder).
#[derive(Clone, Copy)]
pub struct Closure<F>(pub(super) F);

impl<F> Sealed for Closure<F> {}

impl<F, T, E> MakeError<E> for Closure<F>
where
    F: Fn() -> T,
    T: Into<E>,
{
    fn make_error(&self) -> Option<E> {
        Some((self.0)().into())
    }
}

impl<F, Req, Res> MakeResponse<Req, Res> for Closure<F>
where
    F: Fn(&Req) -> Res,
{
    fn make_response(&self, request: &Req) -> Option<Res> {
        Some((self.0)(request))
    }
}

impl<F, Req> Partition<Req> for Closure<F>
where
    F: Fn(&Req) -> bool,
{
    fn separates(&self, request: &Req) -> bool {
        (self.0)(request)
    }
}

impl<F> fmt::Debug for Closure<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Closure({})", type_name::<F>())
    }
}
