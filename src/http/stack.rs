//! The HTTP stacks, for clients and for the handlers of a server.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::Request;
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::{AutoClassifier, HttpClient, HttpClientLayer, ReplaySafe, uploads};
use crate::{
    Stack,
    call::{
        completion::{AtEnd, CallEnd, Completion, Discard, StreamingResponse},
        degraded::Degraded,
    },
    retry::{HttpReplay, RetryLayer},
    sealed::Sealed,
    stack::{
        ServiceOf,
        slots::{
            Fill, Filled, Fresh, Handles, KeepsTypes, RetrySlot, ServerTransport, Slot, SlotAt,
            StandardSlots, Takes, Transport, Untimed, Within, position,
        },
    },
};

/// The stack returned by [`Stack::standard_http`].
///
/// `Stack::standard(replay).http()` returns it too, with the replay policy as `P`.
pub type HttpStack<P = ReplaySafe> =
    Stack<Filled<StandardSlots<P>, position::TransportPosition, HttpClientLayer>>;

/// The service of an [`HttpStack`] around a client `S` whose error is `E`.
///
/// [`Stack::service`] returns it. Use it to name the service in the field of a struct:
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
    /// Creates a stack for an HTTP client, with every layer set to its default.
    ///
    /// It is [`standard`](Self::standard) with [`ReplaySafe`] and [`http`](Self::http). Call a
    /// setter to override one layer.
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
    /// Adds an [`HttpClientLayer`] with its defaults, for an HTTP or gRPC client.
    ///
    /// The stack then
    ///
    /// - classifies responses by their status, and follows the retry hints of the server;
    /// - writes the remaining time and the number of the attempt into the request headers;
    /// - ends a call with the body of its response.
    ///
    /// See [`http`](crate::http).
    ///
    /// The response becomes a `Response<ResponseBody<B>>`. If you set a classifier, it stays in
    /// use. If it gives no retry hint, the hint is read from the response. Your own error type
    /// must implement [`Cause`](crate::http::Cause) too.
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

    /// Adds an [`HttpClientLayer`] with your own settings.
    ///
    /// Everything else is as in [`http`](Self::http).
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

impl Fresh for HttpClientLayer {
    fn fresh(&self) -> Self {
        Self::fresh(self)
    }
}

impl Handles for HttpClientLayer {}

impl Untimed for HttpClientLayer {
    fn untimed(&self) -> Self {
        self.clone()
    }
}

impl<S, C, M> Slot<S, C, M> for HttpClientLayer {
    type Service = HttpClient<S>;

    fn wrap(&self, inner: S, _: &Arc<C>) -> HttpClient<S> {
        self.layer(inner)
    }

    fn wrap_in_stack(&self, inner: S, _: &Arc<C>, within: &Within<'_>) -> HttpClient<S> {
        self.inherit(within.reporters);
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

impl Handles for ServerTransport {}

impl Fresh for ServerTransport {
    fn fresh(&self) -> Self {
        *self
    }
}

impl<S, C, M> Slot<S, C, M> for ServerTransport {
    type Service = S;

    fn wrap(&self, inner: S, _: &Arc<C>) -> S {
        inner
    }
}

impl<Res: StreamingResponse> Completion<Res> for ServerTransport {
    type Unread = Res;

    #[inline]
    fn end(response: &mut Res) -> Option<&mut CallEnd> {
        AtEnd::end(response)
    }

    fn unread(response: Res) -> Option<Res> {
        AtEnd::unread(response)
    }

    fn poll_drain(unread: &mut Res, cx: &mut Context<'_>) -> Poll<()> {
        AtEnd::poll_drain(unread, cx)
    }

    fn mark_degraded(response: &mut Res, degraded: Degraded) {
        AtEnd::mark_degraded(response, degraded);
    }
}

impl<B: Body + Send + 'static> Discard<Request<B>> for ServerTransport {
    fn discard(request: Request<B>) {
        uploads::discard(request);
    }
}

impl Transport for ServerTransport {
    type Completion = Self;
    type Classifier = AutoClassifier;

    fn classifier(&self) -> Arc<Self::Classifier> {
        Arc::default()
    }

    fn is_server(&self) -> bool {
        true
    }
}
