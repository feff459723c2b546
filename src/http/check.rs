//! A check of an endpoint by an HTTP request.

use std::{fmt, future::poll_fn, marker::PhantomData, pin::pin};

use bytes::Buf;
use http::{Request, Response, Uri};
use http_body::Body;
use tower_service::Service;

use crate::{ConfigError, call::oneshot::Oneshot, endpoints::Check};

/// The amount of a response that is read, so that its connection can be used again.
const MOST: usize = 64 * 1024;

/// A check of an [endpoint](crate::endpoints) by a GET request.
///
/// The endpoint is well if the status is 2xx. The body is read up to 64 KiB, and must not fail.
///
/// ```
/// use buttress::http::HttpCheck;
///
/// // The service of each endpoint decides where the request goes.
/// let check = HttpCheck::<String>::get("http://shop/health")?;
/// # let _ = check;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
pub struct HttpCheck<B> {
    uri: Uri,
    body: PhantomData<fn() -> B>,
}

impl<B> HttpCheck<B> {
    /// Creates a check that sends a GET request for this URI, with an empty body.
    ///
    /// The URI needs a scheme and a host, as in `http://shop/health`, even if the client sends each
    /// request to one address. Clients such as hyper's fail without them, and the host becomes the
    /// `Host` header.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] for `get` if `uri` is not a URI, or has no scheme or no host.
    pub fn get(uri: &str) -> Result<Self, ConfigError> {
        let is_absolute =
            |it: &Uri| it.scheme().is_some() && it.host().is_some_and(|host| !host.is_empty());
        match uri.parse().ok().filter(is_absolute) {
            Some(uri) => Ok(Self { uri, body: PhantomData }),
            None => Err(ConfigError::new("get", uri, "it must be a URI with a scheme and a host")),
        }
    }
}

impl<S, B, R> Check<S> for HttpCheck<B>
where
    S: Service<Request<B>, Response = Response<R>, Future: Send> + Send + 'static,
    B: Default + Send + 'static,
    R: Body<Data: Send> + Send,
{
    async fn check(&self, service: S) -> bool {
        let mut request = Request::new(B::default());
        *request.uri_mut() = self.uri.clone();
        // The error need not be `Send`, so it is dropped before the wait for the body.
        let response = Oneshot::waiting(service, request).await.ok();
        match response {
            Some(response) => response.status().is_success() && read(response.into_body()).await,
            None => false,
        }
    }
}

/// Reads a body to its end, or up to a limit. Returns `false` if it fails.
async fn read<R: Body>(body: R) -> bool {
    let (mut body, mut left) = (pin!(body), MOST);
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let Ok(frame) = frame else { return false };
        // A frame without data counts too, because such frames may never end.
        let length = frame.data_ref().map_or(1, |data| data.remaining().max(1));
        let Some(rest) = left.checked_sub(length) else { return true };
        left = rest;
    }
    true
}

impl<B> Clone for HttpCheck<B> {
    fn clone(&self) -> Self {
        Self { uri: self.uri.clone(), body: PhantomData }
    }
}

impl<B> fmt::Debug for HttpCheck<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HttpCheck").field(&self.uri).finish()
    }
}
