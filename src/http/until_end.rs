use std::{fmt, sync::Arc};

use tower_layer::Layer;

use super::AutoClassifier;
use crate::{call::completion::AtEnd, stack::slots::Slot};

/// A wrapper that makes the calls of a layer end with the body of the response.
///
/// Use it for layers that you combine yourself. Without it, a bulkhead frees the permit at the head
/// of the response. In a [`Stack`](crate::Stack) with [`http()`](crate::Stack::http), the layers
/// wait for the end of the body already.
///
/// It needs an [`HttpClientLayer`](super::HttpClientLayer) beneath it, or an
/// [`HttpServerLayer::around`](super::HttpServerLayer::around) around it.
///
/// ```
/// use buttress::{
///     Error,
///     bulkhead::BulkheadLayer,
///     http::{HttpClientLayer, UntilEnd},
///     timeout::TimeoutLayer,
/// };
/// use http::{Request, Response};
/// use std::time::Duration;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Error<std::io::Error>> {
/// let client = ServiceBuilder::new()
///     .layer(UntilEnd::new(BulkheadLayer::default()))
///     .layer(TimeoutLayer::new(Duration::from_secs(2)))
///     .layer(HttpClientLayer::new())
///     .map_err(Error::Service)
///     .service(service_fn(|_: Request<String>| async {
///         Ok::<_, std::io::Error>(Response::new("two orders".to_owned()))
///     }));
///
/// // The response holds the permit of the bulkhead until its body has ended or is dropped.
/// let response = client.oneshot(Request::default()).await?;
/// # drop(response);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct UntilEnd<L> {
    layer: L,
    classifier: Arc<AutoClassifier>,
}

impl<L> UntilEnd<L> {
    /// Wraps a layer.
    ///
    /// The layer uses an [`AutoClassifier`] unless it has its own classifier.
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
