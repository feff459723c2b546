//! `reqwest` as a tower service of `http` requests.

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use reqwest::{Client, ClientBuilder, redirect, retry};
use tower_service::Service;

use crate::BoxError;

/// A `reqwest::Client` that takes and gives what the layers of this crate do.
///
/// reqwest sends requests again by itself, past every budget, and follows redirects. The first is
/// switched off here; for the second you say what you want. `B` is the body of a request.
///
/// ```no_run
/// use buttress::{Stack, http::{ReplaySafe, reqwest::ReqwestClient}};
/// use reqwest::redirect::Policy;
///
/// let client = ReqwestClient::<String>::new(reqwest::Client::builder(), Policy::none())?;
/// let client = Stack::standard(ReplaySafe::new()).http().service(client);
/// # Ok::<(), reqwest::Error>(())
/// ```
pub struct ReqwestClient<B> {
    client: Client,
    // Of any body, it could not be told for which one a stack is around it.
    body: PhantomData<fn(B)>,
}

impl<B> Clone for ReqwestClient<B> {
    fn clone(&self) -> Self {
        Self::from_client(self.client.clone())
    }
}

impl<B> fmt::Debug for ReqwestClient<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReqwestClient").field("client", &self.client).finish()
    }
}

impl<B> ReqwestClient<B> {
    /// Builds a client that sends each request once, and follows redirects as `redirects` says.
    ///
    /// # Errors
    ///
    /// Those of `reqwest::ClientBuilder::build`.
    pub fn new(
        builder: ClientBuilder,
        redirects: redirect::Policy,
    ) -> Result<Self, reqwest::Error> {
        let client = builder.retry(retry::never()).redirect(redirects).build()?;
        Ok(Self::from_client(client))
    }

    /// Takes a client as it is. Built without `.retry(reqwest::retry::never())`, it sends requests again
    /// behind the back of the layers.
    pub fn from_client(client: Client) -> Self {
        Self { client, body: PhantomData }
    }

    /// The client.
    pub fn get_ref(&self) -> &Client {
        &self.client
    }
}

impl<B> Service<Request<B>> for ReqwestClient<B>
where
    B: Body<Data = Bytes> + Send + Sync + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<reqwest::Body>;
    type Error = reqwest::Error;
    type Future = ReqwestFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), reqwest::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ReqwestFuture {
        let empty = request.body().is_end_stream();
        let request = reqwest::Request::try_from(request.map(reqwest::Body::wrap));
        let request = request.map(|mut request| {
            if empty {
                // A body of unknown length would make a GET one with `Transfer-Encoding: chunked`.
                *request.body_mut() = None;
            }
            request
        });
        let call = match request {
            Ok(request) => Call::Sent { call: Box::pin(self.client.execute(request)) },
            Err(error) => Call::Invalid { error: Some(error) },
        };
        ReqwestFuture { call }
    }
}

pin_project! {
    /// The future of a [`ReqwestClient`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ReqwestFuture {
        call: Call,
    }
}

type Executing = dyn Future<Output = Result<reqwest::Response, reqwest::Error>> + Send;

enum Call {
    // The future of reqwest has no name.
    Sent { call: Pin<Box<Executing>> },
    Invalid { error: Option<reqwest::Error> },
}

impl Future for ReqwestFuture {
    type Output = Result<Response<reqwest::Body>, reqwest::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().call {
            Call::Sent { call } => Poll::Ready(ready!(call.as_mut().poll(cx)).map(Response::from)),
            Call::Invalid { error } => {
                let error = error.take();
                Poll::Ready(Err(error.expect("a response future was polled after it had ended")))
            }
        }
    }
}

impl fmt::Debug for ReqwestFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReqwestFuture").finish_non_exhaustive()
    }
}
