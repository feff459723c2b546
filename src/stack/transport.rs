use std::sync::Arc;

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
    /// The transport.
    type Transport;
}

/// The transport of a stack around the handler of a server: there is no layer next to it, but a call
/// ends with the body of its response.
#[cfg(feature = "http")]
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerTransport;
