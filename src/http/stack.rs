//! The stacks of HTTP: around a client, and around the handlers of a server.

use std::sync::Arc;

use super::{AutoClassifier, HttpClientLayer};
use crate::{
    Stack,
    call::completion::AtEnd,
    stack::{Edge, ServerEdge, Slot},
};

impl<T, R, B, K, A, H, C> Stack<T, R, B, K, A, H, C> {
    /// For an HTTP or gRPC client: answers are judged by their status, hints of the server are heeded,
    /// deadlines and attempts are written into the headers, and a call ends with the body of its
    /// response. See [`http`](crate::http).
    ///
    /// The service answers with a `Response<ResponseBody<B>>`. A classifier that was set stays, and judges; what
    /// it has no hint for is still looked for in the answer. An error of your own has to be a
    /// [`Cause`](crate::http::Cause) too.
    ///
    /// ```
    /// use buttress::{Fault, Outcome, Stack, http::ReplaySafe};
    /// use http::{Request, Response};
    /// # use tower::service_fn;
    ///
    /// # let client = service_fn(|_: Request<String>| async {
    /// #     Ok::<_, std::io::Error>(Response::new(String::new()))
    /// # });
    /// let client = Stack::standard(ReplaySafe::new())
    ///     .http()
    ///     .classify_fn(|result: Result<&Response<_>, &_>| match result {
    ///         Ok(response) if !response.status().is_server_error() => Outcome::Success,
    ///         _ => Outcome::Failure(Fault::Transient),
    ///     })
    ///     .service(client);
    /// # let _ = client;
    /// ```
    pub fn http(self) -> Stack<T, R, B, K, A, HttpClientLayer, C> {
        self.http_client(HttpClientLayer::new())
    }

    /// The same, with settings of one's own.
    pub fn http_client(self, client: HttpClientLayer) -> Stack<T, R, B, K, A, HttpClientLayer, C> {
        self.with_edge(client)
    }

    /// For the handlers of a server.
    pub(crate) fn on_server(self) -> Stack<T, R, B, K, A, ServerEdge, C> {
        self.with_edge(ServerEdge)
    }
}

impl<S, C, M> Slot<S, C, M> for ServerEdge {
    type Service = S;

    fn wrap(&self, inner: S, _: &Arc<C>) -> S {
        inner
    }
}

impl Edge for ServerEdge {
    type Completion = AtEnd;
    type Classifier = AutoClassifier;

    fn classifier(&self) -> Arc<Self::Classifier> {
        Arc::default()
    }
}
