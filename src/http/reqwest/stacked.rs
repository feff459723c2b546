//! A stack around a reqwest client, with reqwest's own requests and responses.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version};
use http_body::Body;
use reqwest::{IntoUrl, Url};
use tower_layer::Layer;
use tower_service::Service;

use super::{
    body::ReqwestBody,
    client::{ReqwestClient, ReqwestError},
    response::{End, to_reqwest},
};
use crate::{
    BoxError, Error,
    call::{clock, oneshot::Oneshot},
    error::Name,
    http::ReplayBodyLayer,
    stack::slots::ConvertError,
    telemetry::{Kind, Reporter},
    timeout::{Fixed, TotalTimeout},
};

/// The name of a request's own timeout in errors and events.
const NAME: &str = "request timeout";

/// Puts a stack around a reqwest client.
///
/// The result has reqwest's methods, and returns a `reqwest::Response`:
///
/// ```no_run
/// use buttress::{Error, Stack, http::reqwest::{ReqwestError, client}};
/// use std::time::Duration;
///
/// # async fn price() -> Result<String, Error<ReqwestError>> {
/// let prices = client(reqwest::Client::new(), Stack::standard_http());
///
/// let response = prices
///     .get("https://prices.internal/apples")
///     .bearer_auth("token")
///     .timeout(Duration::from_secs(1))
///     .send()
///     .await?;
/// Ok(response.error_for_status()?.text().await?)
/// # }
/// ```
///
/// Give it a `reqwest::Client`, or a [`ReqwestClient`]. A `reqwest::Client` keeps its own retries
/// and its redirect policy, with the effects at [`ReqwestClient::from_client`]. Prefer
/// [`ReqwestClient::new`]. It switches these retries off. It also sees redirects, so that a POST
/// can be sent again after a refused connection.
///
/// The stack should have [`http()`](crate::Stack::http). See the [module docs](super) for bodies,
/// timeouts, redirects and errors.
pub fn client<L, R>(client: impl Into<ReqwestClient<ReqwestBody>>, stack: L) -> StackedClient
where
    L: Layer<ConvertError<ReqwestClient<ReqwestBody>, Error<ReqwestError>>>,
    L::Service: Service<Request<ReqwestBody>, Response = Response<R>, Error = Error<ReqwestError>>,
    L::Service: Clone + Send + Sync + 'static,
    <L::Service as Service<Request<ReqwestBody>>>::Future: Send,
    R: Body<Data = Bytes> + Send + Sync + 'static,
    R::Error: Into<BoxError>,
{
    let client = client.into();
    let requests = client.get_ref().clone();
    let service = stack.layer(ConvertError::new(client));
    let reporter = Arc::new(Reporter::new(Some(&Name::from(NAME)), Kind::Timeout));
    let (service, streams) = (Arc::new(service), ReplayBodyLayer::new());
    StackedClient { requests, service, streams, reporter }
}

type BoxedCall =
    Pin<Box<dyn Future<Output = Result<reqwest::Response, Error<ReqwestError>>> + Send>>;

/// A stack around a client, whose type is hidden.
trait Stacked: Send + Sync {
    /// Starts a call to `url`. `limit` is the request's own timeout, with its reporter.
    fn start(
        &self,
        request: Request<ReqwestBody>,
        url: Url,
        limit: Option<(Duration, Arc<Reporter>)>,
    ) -> BoxedCall;
}

impl<S, R> Stacked for S
where
    S: Service<Request<ReqwestBody>, Response = Response<R>, Error = Error<ReqwestError>>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    R: Body<Data = Bytes> + Send + Sync + 'static,
    R::Error: Into<BoxError>,
{
    fn start(
        &self,
        request: Request<ReqwestBody>,
        url: Url,
        limit: Option<(Duration, Arc<Reporter>)>,
    ) -> BoxedCall {
        let Some((limit, reporter)) = limit else {
            let call = Oneshot::waiting(self.clone(), request);
            return Box::pin(async { Ok(to_reqwest(call.await?, url, None)) });
        };
        let mut timeout =
            TotalTimeout::new(self.clone(), Fixed(limit), Some(Arc::clone(&reporter)));
        let end = clock::now().checked_add(limit).map(|at| End { limit, at, reporter });
        let call = timeout.call(request);
        Box::pin(async move { Ok(to_reqwest(call.await?, url, end)) })
    }
}

/// A reqwest client with a stack around it. Created by [`client`].
///
/// Clones share the client and the layers of the stack.
#[derive(Clone)]
pub struct StackedClient {
    requests: reqwest::Client,
    service: Arc<dyn Stacked>,
    streams: ReplayBodyLayer,
    /// Reports the timeouts of single requests.
    reporter: Arc<Reporter>,
}

impl StackedClient {
    /// Starts a GET request.
    pub fn get(&self, url: impl IntoUrl) -> StackedRequest {
        self.request(Method::GET, url)
    }

    /// Starts a POST request.
    pub fn post(&self, url: impl IntoUrl) -> StackedRequest {
        self.request(Method::POST, url)
    }

    /// Starts a PUT request.
    pub fn put(&self, url: impl IntoUrl) -> StackedRequest {
        self.request(Method::PUT, url)
    }

    /// Starts a PATCH request.
    pub fn patch(&self, url: impl IntoUrl) -> StackedRequest {
        self.request(Method::PATCH, url)
    }

    /// Starts a DELETE request.
    pub fn delete(&self, url: impl IntoUrl) -> StackedRequest {
        self.request(Method::DELETE, url)
    }

    /// Starts a HEAD request.
    pub fn head(&self, url: impl IntoUrl) -> StackedRequest {
        self.request(Method::HEAD, url)
    }

    /// Starts a request with this method.
    pub fn request(&self, method: Method, url: impl IntoUrl) -> StackedRequest {
        let request = self.requests.request(method, url);
        StackedRequest { client: self.clone(), request }
    }

    /// Sends a request through the stack.
    ///
    /// The timeout of the request starts here.
    ///
    /// # Errors
    ///
    /// The rejection of a layer, or the error of reqwest. A response with an error status is `Ok`.
    pub fn execute(
        &self,
        mut request: reqwest::Request,
    ) -> impl Future<Output = Result<reqwest::Response, Error<ReqwestError>>> + Send + use<> {
        let limit = request.timeout().copied();
        if limit.is_some() {
            // `start` enforces the limit. reqwest would start it again with each attempt, and
            // without one it would apply the timeout of its client.
            *request.timeout_mut() = Some(Duration::MAX);
        }
        let limit = limit.map(|limit| (limit, Arc::clone(&self.reporter)));
        let body = ReqwestBody::new(request.body_mut().take(), &self.streams);
        let url = request.url().clone();
        let call = Request::try_from(request)
            .map(|request| self.service.start(request.map(|_| body), url, limit))
            .map_err(ReqwestError::invalid);
        async { call?.await }
    }
}

impl fmt::Debug for StackedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StackedClient").field("client", &self.requests).finish_non_exhaustive()
    }
}

/// A request of a [`StackedClient`] that is being built.
///
/// The methods are those of `reqwest::RequestBuilder`. Those of reqwest's optional features, such
/// as `json`, `form`, `query` and `multipart`, are called in [`with`](Self::with).
#[derive(Debug)]
#[must_use = "a request does nothing until it is sent"]
pub struct StackedRequest {
    client: StackedClient,
    request: reqwest::RequestBuilder,
}

impl StackedRequest {
    /// Changes the request by any methods of reqwest's own builder.
    ///
    /// Default: none.
    ///
    /// ```no_run
    /// # async fn f(client: buttress::http::reqwest::StackedClient, token: &str)
    /// # -> Result<(), buttress::BoxError> {
    /// // With reqwest's feature `json`, also `request.json(&order)`.
    /// let request = client
    ///     .post("https://orders.internal/")
    ///     .with(|request| request.bearer_auth(token).body("two apples"));
    /// let response = request.send().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn with(
        mut self,
        change: impl FnOnce(reqwest::RequestBuilder) -> reqwest::RequestBuilder,
    ) -> Self {
        self.request = change(self.request);
        self
    }

    /// Adds a header.
    ///
    /// Default: none.
    pub fn header<K, V>(self, name: K, value: V) -> Self
    where
        HeaderName: TryFrom<K>,
        <HeaderName as TryFrom<K>>::Error: Into<http::Error>,
        HeaderValue: TryFrom<V>,
        <HeaderValue as TryFrom<V>>::Error: Into<http::Error>,
    {
        self.with(|request| request.header(name, value))
    }

    /// Sets headers. They replace earlier ones of the same names.
    ///
    /// Default: none.
    pub fn headers(self, headers: HeaderMap) -> Self {
        self.with(|request| request.headers(headers))
    }

    /// Sets the user and password for HTTP basic authentication.
    ///
    /// Default: none.
    pub fn basic_auth(self, user: impl fmt::Display, password: Option<impl fmt::Display>) -> Self {
        self.with(|request| request.basic_auth(user, password))
    }

    /// Sets the bearer token.
    ///
    /// Default: none.
    pub fn bearer_auth(self, token: impl fmt::Display) -> Self {
        self.with(|request| request.bearer_auth(token))
    }

    /// Sets the body.
    ///
    /// Default: none.
    pub fn body(self, body: impl Into<reqwest::Body>) -> Self {
        self.with(|request| request.body(body))
    }

    /// Sets the timeout of the whole call, from [`send`](Self::send) to the end of the body.
    ///
    /// Default: none.
    ///
    /// It covers all attempts, pauses and queues. It replaces the `timeout` of reqwest's
    /// `ClientBuilder`, which may be shorter. The timeouts of the stack still apply. In errors and
    /// events its name is `request timeout`.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.with(|request| request.timeout(timeout))
    }

    /// Sets the version of HTTP.
    ///
    /// Default: `HTTP/1.1`. The client may use HTTP/2 instead.
    pub fn version(self, version: Version) -> Self {
        self.with(|request| request.version(version))
    }

    /// Sends the request through the stack.
    ///
    /// # Errors
    ///
    /// The rejection of a layer, or the error of reqwest, also for an invalid URL or header. A
    /// response with an error status is `Ok`. `error_for_status` turns it into an error.
    pub fn send(
        self,
    ) -> impl Future<Output = Result<reqwest::Response, Error<ReqwestError>>> + Send + use<> {
        let request = self.request.build().map_err(ReqwestError::invalid);
        let call = request.map(|request| self.client.execute(request));
        async { call?.await }
    }
}
