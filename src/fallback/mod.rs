//! Fallbacks, which respond when a service cannot.
//!
//! Use one where a worse response is better than an error: a shop without recommendations, a page
//! without a counter, another region. The layer's handle can also switch the service off. Calls
//! then get the fallback at once. Neither the service nor a cache beneath the layer is asked.
//!
//! ```
//! use buttress::{Error, fallback::FallbackLayer};
//! use std::io;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Error<io::Error>> {
//! let none = FallbackLayer::value(Vec::<String>::new());
//! let feature = none.handle();
//! let recommendations = ServiceBuilder::new()
//!     .layer(none)
//!     .map_err(Error::Service) // `Error` holds the service's error or a rejection.
//!     .service(service_fn(|_customer: u64| async {
//!         Err::<Vec<String>, _>(io::Error::from(io::ErrorKind::ConnectionRefused))
//!     }));
//!
//! assert!(recommendations.clone().oneshot(7).await?.is_empty());
//! assert_eq!(feature.used(), 1);
//!
//! feature.switch_off(); // The service is not called any more.
//! assert!(recommendations.oneshot(7).await?.is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! In a [`Stack`](crate::Stack), with a closure that gets what it needs of the request, and the
//! [`Reason`]:
//!
//! ```
//! use buttress::{
//!     Stack,
//!     fallback::{self, FallbackLayer, Reason},
//!     retry::ReplayClones,
//! };
//! use std::{io, time::Duration};
//! use tower::{ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! /// Reads the price of yesterday.
//! async fn yesterday(item: u64) -> Option<u32> {
//!     (item == 7).then_some(100)
//! }
//!
//! let prices = service_fn(|_item: u64| std::future::pending::<Result<u32, io::Error>>());
//! let source = fallback::from_fn(|item: &u64| *item, |item, reason| async move {
//!     match reason {
//!         Reason::Off => None,
//!         _ => yesterday(item).await,
//!     }
//! });
//! let layer = FallbackLayer::builder(source).limit(Duration::from_millis(200)).build()?;
//! let prices = Stack::standard(ReplayClones).fallback(layer).service(prices);
//!
//! assert_eq!(prices.clone().oneshot(7).await?, 100);
//! // There is no fallback for this item, and the call fails as it would without the layer.
//! assert!(prices.oneshot(8).await.is_err());
//! # Ok(())
//! # }
//! ```
//!
//! # What falls back
//!
//! | result | falls back |
//! |---|---|
//! | [`Transient`](crate::Fault::Transient), [`TimedOut`](crate::Fault::TimedOut) or [`Overloaded`](crate::Fault::Overloaded) failure | yes |
//! | rejection for which [`is_unavailable`](crate::Rejection::is_unavailable) is `true`, such as an open circuit, a full bulkhead or a timeout | yes |
//! | [`Permanent`](crate::Fault::Permanent) failure | only with [`also_permanent`](FallbackBuilder::also_permanent) |
//! | any other rejection, and an [`InProgress`](crate::Fault::InProgress) failure | only with [`when_fn`](FallbackBuilder::when_fn) |
//! | success, and a result that the classifier [ignores](crate::Outcome::Ignored) | never |
//!
//! The classifier of the stack decides. A response whose body breaks off after its head does not
//! fall back, because the caller has the head already.
//!
//! The fallback never makes a failure worse. If it fails, exceeds its
//! [`limit`](FallbackBuilder::limit) or has no response, the call ends with the result of the
//! service. If that is a failed response, such as a 503, it is kept until then. Its permits are
//! released before the fallback begins.
//!
//! # Time
//!
//! The fallback is the last layer that responds, and stands outside the total timeout. If the
//! caller has a [deadline](crate::Deadline), that may come first. The layer therefore ends the call
//! a little earlier than the caller's deadline, and uses the [rest](FallbackBuilder::reserve). A
//! caller whose deadline has passed gets no fallback. A fallback that hangs ends before the
//! deadline too, by the same share of what is left, so that the caller learns why the call has
//! failed. Without a deadline and without any timeout, a call that hangs never falls back.
//!
//! A fallback must be local, or have a stack of its own. A fallback that calls the same dependency
//! fails together with it, and adds to its load. Clones of a layer share their state, so give the
//! other service a stack of its own by [`Stack::fresh`](crate::Stack::fresh). If the breaker or
//! bulkhead that rejected the call rejects its fallback too, the event "fallback failed" has the
//! cause `same_layer`. The cause is not detected if the call runs in another task, such as one that
//! callers of a [cache](crate::cache) share.
//!
//! # Readiness
//!
//! The layer forwards readiness. While the service is switched off, the layer is always ready. It
//! does not poll the service then, so nothing is reserved in it. Callers that wait until the
//! service is ready are woken when it is switched off, and get the fallback. If it is switched off
//! between `poll_ready` and `call`, it stays ready for the next call of this instance. Its
//! reservations are freed when the instance is dropped.
//!
//! # Clone
//!
//! The switch belongs to the layer. Every service that it creates, and every clone, shares it.
//!
//! # Cancellation
//!
//! Dropping the future drops the call or the fallback, whichever runs. A panic of the fallback
//! comes out of the future, and counts as a failed fallback.
//!
//! # Errors
//!
//! - [`SwitchedOff`](crate::error::SwitchedOff) if the service is switched off and there is no
//!   fallback for the call.
//! - [`TimedOut`](crate::error::TimedOut) if the layer has ended the call to have time for the
//!   fallback, and there was none.
//!
//! # Order
//!
//! Put it outside all other layers, but inside the span of the call. A key layer, such as
//! [`SetIdempotencyKeyLayer`](crate::http::SetIdempotencyKeyLayer), belongs outside it, so that a
//! copy for another service has the key of the first request.
//!
//! # HTTP and gRPC
//!
//! [`FallbackLayer::http`] takes an HTTP response. A closure of [`FallbackLayer::from_fn`] in a
//! stack with [`http()`](crate::Stack::http) gives a [`response`](crate::http::response()) of
//! bytes. Every degraded HTTP response has the extension
//! [`Degraded`](crate::http::Degraded). No header is added.
//!
//! A fallback of a gRPC call stands around the method call of the generated client. Only there is
//! the response a message. Metadata and trailers are not changed. `examples/ecosystem` has one, in
//! `grpc_client`.
//!
//! # On a server
//!
//! Do not set one in the stack of a server, because it would hide that the server rejects. Put a
//! `FallbackLayer` around one handler if a degraded page is better than none. It then stands inside
//! the [server layer](crate::http::HttpServerLayer), and its reserve keeps a part of the time that
//! the caller of the server left. Its response has no [`Degraded`](crate::http::Degraded) there,
//! unless its body is a [`ResponseBody`](crate::http::ResponseBody):
//!
//! ```
//! use buttress::{Error, Stack, fallback::FallbackLayer, http::HttpServerLayer};
//! use http::{Request, Response, StatusCode};
//! use std::{convert::Infallible, io};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! fn bad_gateway() -> Response<String> {
//!     let mut response = Response::default();
//!     *response.status_mut() = StatusCode::BAD_GATEWAY;
//!     response
//! }
//!
//! let page = service_fn(|_: Request<String>| async {
//!     Err::<Response<String>, _>(Error::Service(io::Error::from(io::ErrorKind::BrokenPipe)))
//! });
//! let without = FallbackLayer::from_fn(
//!     |_| (),
//!     |(), _| async { Some(Response::new("no recommendations today".to_owned())) },
//! );
//! let page = without.layer(page);
//! let handler = service_fn(move |request| {
//!     let page = page.clone();
//!     async move {
//!         let page = page.oneshot(request).await;
//!         Ok::<_, Infallible>(page.unwrap_or_else(|_| bad_gateway()))
//!     }
//! });
//!
//! let server = HttpServerLayer::new(Stack::new()).layer(handler);
//! let response = server.oneshot(Request::default()).await.unwrap();
//! assert_eq!(response.status(), 200);
//! # }
//! ```
//!
//! # Telemetry
//!
//! | event | level |
//! |---|---|
//! | "fallback used", with the reason | `WARN` |
//! | "fallback failed", with the reason of the call and the cause | `WARN` |
//! | "call rejected", when the service is switched off and there is no fallback | `WARN` |
//!
//! The span of a call that fell back has the outcome `degraded`, and its source in the field
//! [`buttress.source`](crate::telemetry::field::SOURCE). The metrics count such calls as `degraded`
//! too.

mod config;
pub(crate) mod describe;
pub mod future;
mod handle;
mod layer;
mod layer_state;
mod other_service;
mod service;
mod shared;
mod source;
mod state;
mod waiting;

pub use self::{
    handle::FallbackHandle,
    layer::{FallbackBuilder, FallbackLayer},
    other_service::{Copied, FallbackService, service},
    service::Fallback,
    source::{FallbackFn, FallbackSource, FallbackValue, Respond, from_fn, value},
};
pub use crate::call::degraded::Reason;
