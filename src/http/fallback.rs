//! The fallback with a response of HTTP.

use std::future::{Ready, ready};

use bytes::Bytes;
use http::{Method, Request, Response};

use crate::{
    fallback::{FallbackLayer, FallbackSource, Reason, Respond},
    sealed::Sealed,
};

/// An HTTP response for every call. [`fallback`] creates it.
#[derive(Clone, Debug)]
pub struct FallbackResponse {
    response: Response<Bytes>,
}

/// Creates a source of a [fallback](crate::fallback) that gives an HTTP response to every call.
///
/// Its head and its body are kept. Each copy shares the bytes. A `HEAD` request gets the head. It
/// fits every service whose response has a body that can be made from [`Bytes`], such as that of a
/// [`Stack`](crate::Stack) with [`http()`](crate::Stack::http).
///
/// ```
/// use buttress::{fallback::FallbackLayer, http};
/// use ::http::Response;
///
/// let source = http::fallback(Response::new("[]"));
/// let layer = FallbackLayer::builder(source).name("recommendations").build()?;
/// # let _ = layer;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
pub fn fallback(response: Response<impl Into<Bytes>>) -> FallbackResponse {
    FallbackResponse { response: response.map(Into::into) }
}

#[cfg_attr(docsrs, doc(cfg(feature = "http")))]
impl FallbackLayer<FallbackResponse> {
    /// Creates a layer that gives an HTTP response to every call.
    ///
    /// For a builder, pass [`http::fallback`](crate::http::fallback).
    ///
    /// ```
    /// use buttress::{
    ///     Stack,
    ///     fallback::FallbackLayer,
    ///     http::{Degraded, ReplaySafe},
    /// };
    /// use http::{Request, Response};
    /// use std::io;
    /// use tower::{ServiceExt, service_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = service_fn(|_: Request<String>| async {
    ///     Err::<Response<String>, _>(io::Error::from(io::ErrorKind::ConnectionRefused))
    /// });
    /// let client = Stack::standard(ReplaySafe::new())
    ///     .http()
    ///     .fallback(FallbackLayer::http(Response::new("[]")))
    ///     .service(client);
    ///
    /// let response = client.oneshot(Request::default()).await?;
    /// assert_eq!(response.status(), 200);
    /// assert!(response.extensions().get::<Degraded>().is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub fn http(response: Response<impl Into<Bytes>>) -> Self {
        Self::new(fallback(response))
    }
}

impl Sealed for FallbackResponse {}

impl FallbackSource for FallbackResponse {
    const DESCRIPTION: &'static str = "a response";
    const WAITS: bool = false;
}

/// A body that can be made from [`Bytes`]. Every such body implements it.
#[diagnostic::on_unimplemented(
    message = "a fallback for HTTP cannot make a body of the type `{Self}`",
    label = "the bodies of this service cannot be made from `Bytes`",
    note = "add `http()` to the stack, which makes them a `ResponseBody<{Self}>`",
    note = "without `http()`, use `FallbackLayer::value` or `FallbackLayer::from_fn`"
)]
pub(super) trait BodyFromBytes: From<Bytes> {}

#[diagnostic::do_not_recommend]
impl<B: From<Bytes>> BodyFromBytes for B {}

impl<A, B: BodyFromBytes> Respond<Request<A>, Response<B>> for FallbackResponse {
    /// The request is a `HEAD`, whose response has no body.
    type Kept = bool;
    type Future = Ready<Option<Response<B>>>;

    fn keep(&self, request: &Request<A>) -> bool {
        request.method() == Method::HEAD
    }

    fn respond(&self, is_head: bool, _: &Reason, _: bool) -> Option<Self::Future> {
        let response = self.response.clone();
        let response = response.map(|body| if is_head { Bytes::new() } else { body });
        Some(ready(Some(response.map(B::from))))
    }
}
