//! The stacks of HTTP: around a client, and around the handlers of a server.

use std::sync::Arc;

use http::Request;
use tower_layer::Layer;
use tower_service::Service;

use super::{AutoClassifier, HttpClient, HttpClientLayer, ReplaySafe};
use crate::{
    Stack,
    call::completion::AtEnd,
    retry::{HttpReplay, RetryLayer},
    sealed::Sealed,
    stack::{
        ServiceOf,
        slots::{
            Fill, Filled, KeepsTypes, RetrySlot, ServerTransport, Slot, SlotAt, StandardSlots,
            Takes, Transport, position,
        },
    },
};

/// The stack that [`Stack::standard_http`] returns, and `Stack::standard(replay).http()` with a replay
/// policy `P`.
pub type HttpStack<P = ReplaySafe> =
    Stack<Filled<StandardSlots<P>, position::TransportPosition, HttpClientLayer>>;

/// The service that [`Stack::service`] returns: of an [`HttpStack`] around a client `S` that fails with
/// `E`. It is what the field of a struct holds:
///
/// ```
/// use buttress::{Stack, http::HttpStackService};
/// # use http::{Request, Response};
/// # use std::{convert::Infallible, future::{Ready, ready}, task::{Context, Poll}};
/// # #[derive(Clone)]
/// # struct Client;
/// # impl tower::Service<Request<String>> for Client {
/// #     type Response = Response<String>;
/// #     type Error = Infallible;
/// #     type Future = Ready<Result<Response<String>, Infallible>>;
/// #     fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
/// #         Poll::Ready(Ok(()))
/// #     }
/// #     fn call(&mut self, _: Request<String>) -> Self::Future {
/// #         ready(Ok(Response::default()))
/// #     }
/// # }
///
/// struct Orders {
///     client: HttpStackService<Client, Infallible>,
/// }
///
/// let orders = Orders { client: Stack::standard_http().service(Client) };
/// # let _ = orders.client;
/// ```
pub type HttpStackService<S, E, P = ReplaySafe> = ServiceOf<HttpStack<P>, S, E>;

impl Stack {
    /// A stack for an HTTP client, with every layer set to its default: [`standard`](Self::standard)
    /// with [`ReplaySafe`], and [`http`](Self::http).
    ///
    /// ```
    /// use buttress::Stack;
    /// use http::{Request, Response};
    /// # use tower::service_fn;
    ///
    /// # let client = service_fn(|_: Request<String>| async {
    /// #     Ok::<_, std::io::Error>(Response::new(String::new()))
    /// # });
    /// let client = Stack::standard_http().service(client);
    /// # let _ = client;
    /// ```
    pub fn standard_http() -> HttpStack {
        Self::standard(ReplaySafe::new()).http()
    }
}

impl<Slots, C> Stack<Slots, C> {
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
    pub fn http(self) -> Stack<Filled<Slots, position::TransportPosition, HttpClientLayer>, C>
    where
        Slots: SlotAt<position::RetryPosition> + Fill<position::TransportPosition, HttpClientLayer>,
        <Slots as SlotAt<position::RetryPosition>>::Layer: RetrySlot<HttpClientLayer>,
    {
        self.http_client(HttpClientLayer::new())
    }

    /// The same, with settings of one's own.
    pub fn http_client(
        self,
        client: HttpClientLayer,
    ) -> Stack<Filled<Slots, position::TransportPosition, HttpClientLayer>, C>
    where
        Slots: SlotAt<position::RetryPosition> + Fill<position::TransportPosition, HttpClientLayer>,
        <Slots as SlotAt<position::RetryPosition>>::Layer: RetrySlot<HttpClientLayer>,
    {
        self.with(client)
    }
}

impl<P: HttpReplay, C> RetrySlot<HttpClientLayer> for RetryLayer<P, C> {}

impl<S, C, M> Slot<S, C, M> for HttpClientLayer {
    type Service = HttpClient<S>;

    fn wrap(&self, inner: S, _: &Arc<C>) -> HttpClient<S> {
        self.layer(inner)
    }
}

impl Transport for HttpClientLayer {
    type Completion = AtEnd;
    type Classifier = AutoClassifier;

    fn classifier(&self) -> Arc<AutoClassifier> {
        self.shared_classifier()
    }
}

impl<B, Whole, T, E> Takes<Request<B>, Whole, T, E> for HttpClientLayer where
    Whole: Service<Request<B>> + KeepsTypes<Request<B>, T, E>
{
}

impl Sealed for ServerTransport {}

impl<S, C, M> Slot<S, C, M> for ServerTransport {
    type Service = S;

    fn wrap(&self, inner: S, _: &Arc<C>) -> S {
        inner
    }
}

impl Transport for ServerTransport {
    type Completion = AtEnd;
    type Classifier = AutoClassifier;

    fn classifier(&self) -> Arc<Self::Classifier> {
        Arc::default()
    }
}
