//! Measures a hit of the HTTP cache, beside a copy of the same response.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use ::http::{HeaderValue, Request, Response, Uri, header};
use buttress::Stack;
use buttress::cache::CacheLayer;
use bytes::Bytes;
use http_body_util::Full;
use tower::{Service, ServiceExt};

use crate::backend::{self, Subject};
use crate::peers::KEPT_FOR;

type Body = Full<Bytes>;

/// A client that copies a response with six headers.
#[derive(Clone)]
struct Client(Arc<Response<Body>>);

impl Client {
    fn new() -> Self {
        let mut response = Response::new(Body::from("two orders"));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("10"));
        headers.insert(header::DATE, HeaderValue::from_static("Sat, 28 Nov 2026 12:00:00 GMT"));
        headers.insert(header::ETAG, HeaderValue::from_static("\"7f3a\""));
        headers.insert(header::SERVER, HeaderValue::from_static("orders"));
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        Self(Arc::new(response))
    }
}

impl Service<Request<Body>> for Client {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request<Body>) -> Self::Future {
        ready(Ok((*self.0).clone()))
    }
}

/// Makes calls for one URI, and drops the bodies of the responses.
fn called<S, B>(service: S) -> impl Subject
where
    S: Service<Request<Body>, Response = Response<B>, Future: Send> + Clone + Send + 'static,
{
    let uri = Uri::from_static("http://orders.internal/orders/42");
    let request = move |backend::Request(_)| {
        let mut request = Request::new(Body::default());
        *request.uri_mut() = uri.clone();
        request
    };
    let status = |response: Response<B>| u64::from(response.status().as_u16());
    service.map_request(request).map_response(status)
}

pub fn cached() -> impl Subject {
    let cache = CacheLayer::http().ttl(KEPT_FOR).build().expect("valid settings");
    called(Stack::new().http().cache(cache).service(Client::new()))
}

pub fn copied() -> impl Subject {
    called(Client::new())
}
