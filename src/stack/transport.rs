use std::sync::Arc;

use tower_service::Service;

use super::slot::Empty;
use crate::{call::completion::AtHead, outcome::DefaultClassifier, sealed::Sealed};

/// The layer next to the service, and what it means for the layers above it. This trait is sealed.
pub trait Transport: Sealed {
    /// Says when a call has ended.
    type Completion;
    /// The classifier of the layers, unless the stack has another.
    type Classifier;

    /// Returns the classifier, which the layers share.
    fn classifier(&self) -> Arc<Self::Classifier>;
}

impl Transport for Empty {
    type Completion = AtHead;
    type Classifier = DefaultClassifier;

    fn classifier(&self) -> Arc<DefaultClassifier> {
        Arc::new(DefaultClassifier)
    }
}

/// A stack whose transport goes around a service `S`. Its types are those of the whole stack. This
/// trait is sealed.
pub trait WithTransport<S>: Sealed {
    /// The service `S` with the transport around it, and nothing else.
    type Service;
}

/// The response or the error of a whole stack, which is that of its transport, `T`.
#[diagnostic::on_unimplemented(
    message = "a layer in `around_call` or `around_attempt` turns `{T}` into `{Self}`",
    label = "a layer in an open slot changes a type",
    note = "layers in open slots must keep the request, response and error types of the service",
    note = "put a layer that changes one around the finished stack, or around the client beneath it"
)]
pub trait Unchanged<T> {}

impl<T> Unchanged<T> for T {}

/// Keeps the compiler from taking two types for the same before it knows both.
impl<T> Unchanged<Undecided<T>> for T {}

/// No type of any service.
#[derive(Debug)]
pub struct Undecided<T>(std::marker::PhantomData<T>);

/// A service with the response of `T` and the error `E`.
pub trait KeepsTypes<Req, T, E> {}

impl<S, Req, T, E> KeepsTypes<Req, T, E> for S
where
    S: Service<Req>,
    T: Service<Req>,
    S::Response: Unchanged<T::Response>,
    S::Error: Unchanged<E>,
{
}

/// The transport of a stack around the handler of a server: there is no layer next to it, but a call
/// ends with the body of its response.
#[cfg(feature = "http")]
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerTransport;
