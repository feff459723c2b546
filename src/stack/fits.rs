//! The bound of `Stack::service` and `Stack::boxed` on the service: it can be called in the stack,
//! and the stack keeps its types.
//!
//! It asks of the service that goes in, not of the one that comes out. The compiler looks at bounds
//! before it knows the argument. It goes on at once with a bound on what comes out, down through all
//! the layers, which have names already. Nothing that it finds there is final, so nothing is kept, and
//! what it asks again multiplies at each layer. With two layers of the user's in open slots that took
//! half a minute. A bound on a type that is not known yet waits. The type of a request then comes from
//! the service, and an error names the closure in the stack whose parameter has another type.

use std::marker::PhantomData;

use tower_layer::Layer;
use tower_service::Service;

use super::{convert_error::ConvertError, slot::Empty, transport::WithTransport};
use crate::sealed::Sealed;

/// A stack that goes around the service `S`, whose error is `E` there.
///
/// It is a trait of the stack: of two traits of one type the compiler reports the outer one, and the
/// hints are on the inner ones. Every such stack implements it.
pub trait GoesAround<S, Req, E> {}

impl<Stack, S, Req, E> GoesAround<S, Req, E> for Stack where S: FitsInto<Stack, Req, E> {}

/// A service that fits into the stack `Stack`, for requests `Req`, where the errors are `E`: it can
/// be called there, and the layers in open slots keep its types.
///
/// Every such service implements it. It cannot be implemented for others.
pub trait FitsInto<Stack, Req, E> {}

impl<S, Stack, Req, E> FitsInto<Stack, Req, E> for S
where
    S: Service<Req>,
    Stack: Layer<ConvertError<S, E>> + WithTransport<ConvertError<S, E>>,
    Stack::Transport: Takes<
            Req,
            <Stack as Layer<ConvertError<S, E>>>::Service,
            <Stack as WithTransport<ConvertError<S, E>>>::Service,
            E,
        >,
{
}

/// A transport for requests of type `Req`, in a stack whose service is `Whole`, where `T` is the
/// service of the transport alone. This trait is sealed.
///
/// The bounds of the whole service stand on the implementations. For a request that the transport
/// does not take, the compiler then reports this trait and nothing else.
#[diagnostic::on_unimplemented(
    message = "a stack with `http()` takes an `http::Request`, and this client a `{Req}`",
    label = "this client does not take an `http::Request`",
    note = "for reqwest, give the stack a `buttress::http::reqwest::ReqwestClient`, made by \
            `ReqwestClient::new(reqwest::Client::builder(), redirects)`",
    note = "for a client of another protocol, leave `http()` out"
)]
pub trait Takes<Req, Whole, T, E>: Sealed {}

impl<Req, Whole, T, E> Takes<Req, Whole, T, E> for Empty where
    Whole: Service<Req> + KeepsTypes<Req, T, E>
{
}

/// A service with the response of `T` and the error `E`.
///
/// Every such service implements it. It cannot be implemented for others.
pub trait KeepsTypes<Req, T, E> {}

impl<S, Req, T, E> KeepsTypes<Req, T, E> for S
where
    S: Service<Req>,
    T: Service<Req>,
    S::Response: Unchanged<T::Response>,
    S::Error: Unchanged<E>,
{
}

/// The response or the error of a whole stack, which is that of its transport, `T`.
///
/// Every type implements it for itself. There is no reason to implement it for others.
#[diagnostic::on_unimplemented(
    message = "a layer in `around_call` or `around_attempt` turns `{T}` into `{Self}`",
    label = "a layer in an open slot changes a type",
    note = "layers in open slots must keep the request, response and error types of the service",
    note = "if it makes a `BoxError`, as tower's layers do, call `.boxed(client)` instead of \
            `.service(client)`",
    note = "put a layer that changes one around the finished stack, or around the client beneath it"
)]
pub trait Unchanged<T> {}

impl<T> Unchanged<T> for T {}

/// Keeps the compiler from taking two types for the same before it knows both.
impl<T> Unchanged<Undecided<T>> for T {}

/// No type of any service.
#[derive(Debug)]
pub struct Undecided<T>(PhantomData<T>);
