use std::{
    any::Any,
    cell::Cell,
    error::Error as StdError,
    fmt,
    future::Future,
    marker::PhantomData,
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use pin_project_lite::pin_project;
use reqwest::{Client, ClientBuilder, ResponseBuilderExt, redirect, retry};
use tower_service::Service;

use super::body::{ReqwestBody, only_frame};
use crate::{
    BoxError, Error,
    call::ended::polled_after_end,
    error::{WithCauses, find_rejection},
    http::kept_extensions::KeptExtensions,
};

thread_local! {
    /// Set by the redirect policy, which reqwest calls when the polled request receives a redirect.
    static ANSWERED: Cell<bool> = const { Cell::new(false) };
}

/// The error of a request that reqwest failed to complete.
///
/// Its message includes those of its sources. A program that prints the whole chain prints them
/// again.
#[derive(Debug)]
pub struct ReqwestError {
    error: reqwest::Error,
    answered: bool,
}

impl ReqwestError {
    /// Creates the error of a request that could not be built.
    pub(super) fn invalid(error: reqwest::Error) -> Self {
        Self { error, answered: false }
    }

    /// Returns a reference to reqwest's own error, such as for its `is_connect`.
    pub fn get_ref(&self) -> &reqwest::Error {
        &self.error
    }

    /// Returns reqwest's own error.
    pub fn into_inner(self) -> reqwest::Error {
        self.error
    }

    /// Returns whether a server may have responded already, with a redirect.
    ///
    /// An error at the last address then proves nothing about the first address.
    pub(in crate::http) fn was_answered(&self) -> bool {
        self.answered
    }
}

impl fmt::Display for ReqwestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Also the texts of the sources, because reqwest's own text does not say why.
        fmt::Display::fmt(&WithCauses(&self.error), f)
    }
}

impl StdError for ReqwestError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.error)
    }
}

/// Converts an error of a `reqwest::Response`, so that `?` works on `send`, `json` and
/// `error_for_status` alike.
///
/// If a limit of this crate ended the body, the result is the rejection.
impl From<reqwest::Error> for Error<ReqwestError> {
    fn from(error: reqwest::Error) -> Self {
        match find_rejection(&error) {
            Some(rejection) => Self::Rejected(rejection.clone()),
            // Such an error comes after the head of the response, or from a client without a
            // stack. It proves nothing about the request.
            None => Self::Service(ReqwestError { error, answered: true }),
        }
    }
}

/// A service that sends `http` requests with body `B` through a `reqwest::Client`.
///
/// reqwest retries some requests on its own, outside every budget, and it follows redirects.
/// [`new`](Self::new) switches the retries off and takes the redirect policy.
///
/// To build requests with reqwest's own builder, use [`client`](super::client).
///
/// A body that is a `String`, a `Full<Bytes>`, or a `reqwest::Body` of bytes, is handed over as
/// bytes, which reqwest sends again after a 307 or 308. Any other body is streamed. The caller of a
/// streamed request gets the 307 or 308 as the response. The final URL stays with the response, and
/// `reqwest::Response::from` finds it.
///
/// ```no_run
/// use buttress::{Stack, http::reqwest::ReqwestClient};
/// use reqwest::redirect::Policy;
///
/// let client = ReqwestClient::<String>::new(reqwest::Client::builder(), Policy::none())?;
/// let client = Stack::standard_http().service(client);
/// # Ok::<(), reqwest::Error>(())
/// ```
pub struct ReqwestClient<B> {
    client: Client,
    /// Set if this adapter sees the client's redirects.
    watched: bool,
    // The body is part of the type. Otherwise the compiler could not infer the types of the stack
    // around the client.
    body: PhantomData<fn(B)>,
}

impl<B> Clone for ReqwestClient<B> {
    fn clone(&self) -> Self {
        Self { client: self.client.clone(), watched: self.watched, body: PhantomData }
    }
}

impl<B> fmt::Debug for ReqwestClient<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReqwestClient").field("client", &self.client).finish()
    }
}

impl<B> ReqwestClient<B> {
    /// Builds a client that sends each request once and follows redirects as `redirects` allows.
    ///
    /// The retry and redirect settings of `builder` are replaced.
    ///
    /// # Errors
    ///
    /// The errors of `reqwest::ClientBuilder::build`.
    pub fn new(
        builder: ClientBuilder,
        redirects: redirect::Policy,
    ) -> Result<Self, reqwest::Error> {
        let watched = redirect::Policy::custom(move |attempt| {
            ANSWERED.set(true);
            redirects.redirect(attempt)
        });
        let client = builder.retry(retry::never()).redirect(watched).build()?;
        Ok(Self { client, watched: true, body: PhantomData })
    }

    /// Wraps an existing client.
    ///
    /// Build the client with `.retry(reqwest::retry::never())`. Otherwise the layers do not see
    /// reqwest's own retries. Because the client may follow redirects, none of its errors proves
    /// that a request was not sent. A request that is not safe to repeat is therefore never
    /// retried. Prefer [`new`](Self::new).
    pub fn from_client(client: Client) -> Self {
        Self { client, watched: false, body: PhantomData }
    }

    /// Returns a reference to the client.
    pub fn get_ref(&self) -> &Client {
        &self.client
    }
}

/// The same as [`from_client`](Self::from_client).
impl<B> From<Client> for ReqwestClient<B> {
    fn from(client: Client) -> Self {
        Self::from_client(client)
    }
}

impl<B> Service<Request<B>> for ReqwestClient<B>
where
    B: Body<Data = Bytes> + Send + Sync + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<reqwest::Body>;
    type Error = ReqwestError;
    type Future = ReqwestFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ReqwestError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ReqwestFuture {
        let empty = request.body().is_end_stream();
        let request = reqwest::Request::try_from(request.map(into_body));
        let request = request.map(|mut request| {
            if empty {
                // Without this, a GET would have a body of unknown length and be sent with
                // `Transfer-Encoding: chunked`.
                *request.body_mut() = None;
            }
            request
        });
        let call = match request {
            Ok(request) => Call::Sent { call: Box::pin(self.client.execute(request)) },
            Err(error) => Call::Invalid { error: Some(error) },
        };
        ReqwestFuture { call, answered: !self.watched }
    }
}

/// Converts a body. One that is known to be bytes stays bytes, so that a redirect can repeat it.
fn into_body<B>(body: B) -> reqwest::Body
where
    B: Body<Data = Bytes> + Send + Sync + 'static,
    B::Error: Into<BoxError>,
{
    let mut body = Some(body);
    let known: &mut dyn Any = &mut body;
    if let Some(body) = taken::<ReqwestBody>(known) {
        return body.into();
    }
    if let Some(body) = taken::<reqwest::Body>(known) {
        return body;
    }
    if let Some(body) = taken::<String>(known) {
        return body.into();
    }
    if let Some(body) = taken::<Full<Bytes>>(known) {
        return only_frame(body).into();
    }
    // Not polled to see whether it has only one frame, because a `ReplayBody` that was polled
    // cannot be sent again after a refused connection.
    body.map(reqwest::Body::wrap).unwrap_or_default()
}

/// Takes a body out if it is a `T`.
fn taken<T: 'static>(body: &mut dyn Any) -> Option<T> {
    body.downcast_mut().and_then(Option::take)
}

/// Converts a response. Its URL stays in its extensions, where `reqwest::Response::from` looks, and
/// a cache keeps it.
fn with_url(response: reqwest::Response) -> Response<reqwest::Body> {
    // The type of this extension is private to reqwest.
    let mut with_url = Response::builder().url(response.url().clone());
    let bytes = response.url().as_str().len();
    let mut response = Response::from(response);
    if let Some(url) = with_url.extensions_mut() {
        KeptExtensions::new(mem::take(url), bytes).add_to(response.extensions_mut());
    }
    response
}

pin_project! {
    /// The future of a [`ReqwestClient`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ReqwestFuture {
        call: Call,
        answered: bool,
    }
}

type Executing = dyn Future<Output = Result<reqwest::Response, reqwest::Error>> + Send;

enum Call {
    // Boxed, because the type of reqwest's future cannot be named.
    Sent { call: Pin<Box<Executing>> },
    Invalid { error: Option<reqwest::Error> },
}

impl Future for ReqwestFuture {
    type Output = Result<Response<reqwest::Body>, ReqwestError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = match this.call {
            Call::Sent { call } => {
                ANSWERED.set(false);
                let polled = call.as_mut().poll(cx);
                *this.answered |= ANSWERED.take();
                ready!(polled).map(with_url)
            }
            Call::Invalid { error } => Err(error.take().unwrap_or_else(|| polled_after_end())),
        };
        let answered = *this.answered;
        Poll::Ready(result.map_err(|error| ReqwestError { error, answered }))
    }
}

impl fmt::Debug for ReqwestFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReqwestFuture").finish_non_exhaustive()
    }
}
