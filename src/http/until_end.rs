use std::{fmt, sync::Arc};

use tower_layer::Layer;

use super::AutoClassifier;
use crate::{call::completion::AtEnd, stack::slots::Slot};

/// Lets one layer's calls end with the body of the response, for layers that are put together by hand; in
/// a [`Stack`](crate::Stack) that is `http()` they do.
///
/// It needs an [`HttpClientLayer`](super::HttpClientLayer) beneath, or around it a
/// [`HttpServerLayer::around`](super::HttpServerLayer::around).
///
/// ```
/// use buttress::{
///     bulkhead::BulkheadLayer,
///     http::{HttpClientLayer, UntilEnd},
///     timeout::TimeoutLayer,
/// };
/// use std::time::Duration;
/// use tower::ServiceBuilder;
///
/// let layers = ServiceBuilder::new()
///     .layer(UntilEnd::new(BulkheadLayer::default()))
///     .layer(TimeoutLayer::new(Duration::from_secs(2)))
///     .layer(HttpClientLayer::new());
/// # let _ = layers;
/// ```
#[derive(Clone)]
pub struct UntilEnd<L> {
    layer: L,
    classifier: Arc<AutoClassifier>,
}

impl<L> UntilEnd<L> {
    /// The layer, which judges as an [`AutoClassifier`] unless it has a classifier of its own.
    pub fn new(layer: L) -> Self {
        Self { layer, classifier: Arc::default() }
    }
}

impl<S, L> Layer<S> for UntilEnd<L>
where
    L: Slot<S, AutoClassifier, AtEnd>,
{
    type Service = L::Service;

    fn layer(&self, inner: S) -> Self::Service {
        self.layer.wrap(inner, &self.classifier)
    }
}

impl<L: fmt::Debug> fmt::Debug for UntilEnd<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("UntilEnd").field(&self.layer).finish()
    }
}
