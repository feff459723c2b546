//! The bound of `Stack::service` and `Stack::boxed` on the service.
//!
//! It requires that the service can be called in the stack, and that the stack keeps its types. The
//! bound is on the wrapped service and not on the service of the stack. This shortens compile times
//! and improves error messages.
//!
//! The compiler checks bounds before it knows the argument. With a bound on the service of the
//! stack, it would descend at once through all the layers, whose types are already known. Its
//! results there are not final and are not cached, and the repeated work multiplies at each layer.
//! With two layers of the user in open slots, this took half a minute.
//!
//! With a bound on a type that is not known yet, the compiler waits. It then takes the type of the
//! request from the service. An error then names the closure in the stack whose parameter has
//! another type.

use std::marker::PhantomData;

use tower_layer::Layer;
use tower_service::Service;

use super::{convert_error::ConvertError, slot::Empty, transport::WithTransport};
use crate::sealed::Sealed;

/// A stack that can wrap the service `S`, whose error becomes `E`.
///
/// Every such stack implements it. The stack implements it instead of the service, because of the
/// error messages. If two nested traits have the same type, the compiler reports the outer one, but
/// the hints are on the inner traits.
pub trait GoesAround<S, Req, E> {}

impl<Stack, S, Req, E> GoesAround<S, Req, E> for Stack where S: FitsInto<Stack, Req, E> {}

/// A service that fits into the stack `Stack`, for requests `Req` and errors `E`.
///
/// It can be called there, and the layers in open slots keep its types. Every such service
/// implements the trait. It cannot be implemented for others.
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

/// A transport for requests of type `Req`. This trait is sealed.
///
/// `Whole` is the service of the complete stack, and `T` is the service of the transport alone. The
/// bounds on `Whole` are on the implementations. For a request that the transport does not take,
/// the compiler then reports this trait and nothing else.
#[diagnostic::on_unimplemented(
    message = "a stack with `http()` takes an `http::Request`, and this client a `{Req}`",
    label = "this client does not take an `http::Request`",
    note = "for reqwest, write `buttress::http::reqwest::client(client, stack)` instead of \
            `stack.service(client)`",
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

/// The response or the error of a complete stack, which is the same as for its transport, `T`.
///
/// Every type implements it for itself. There is no reason to implement it for other types.
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

/// Keeps the compiler from unifying two types before it knows both.
impl<T> Unchanged<Undecided<T>> for T {}

/// A type that no service has.
#[derive(Debug)]
pub struct Undecided<T>(PhantomData<T>);
