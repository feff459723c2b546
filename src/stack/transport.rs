use std::sync::Arc;

use super::slot::Empty;
use crate::{call::completion::AtHead, outcome::DefaultClassifier, sealed::Sealed};

/// The layer next to the service. This trait is sealed.
///
/// It sets the completion and the default classifier of the layers above.
pub trait Transport: Sealed {
    /// The type that decides when a call is complete.
    type Completion;
    /// The classifier of the layers, unless one was set on the stack.
    type Classifier;

    /// Returns the classifier, which the layers share.
    fn classifier(&self) -> Arc<Self::Classifier>;

    /// Returns `true` around the handler of a server, whose result is not that of its own calls.
    fn is_server(&self) -> bool {
        false
    }
}

impl Transport for Empty {
    type Completion = AtHead;
    type Classifier = DefaultClassifier;

    fn classifier(&self) -> Arc<DefaultClassifier> {
        Arc::new(DefaultClassifier)
    }
}

/// A stack whose transport goes around a service `S`. This trait is sealed.
///
/// The complete stack has the same response and error types as the transport's service.
pub trait WithTransport<S>: Sealed {
    /// The service `S` with only the transport around it.
    type Service;
    /// The transport of the stack.
    type Transport;
}

/// The transport of a stack around the handler of a server.
///
/// It adds no layer, but a call ends with the body of its response.
#[cfg(feature = "http")]
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerTransport;
