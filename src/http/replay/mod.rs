//! Replays HTTP requests with their bodies, where that is safe.
//!
//! The [`ReplaySafe`] policy decides which requests are safe to repeat.
//!
//! Most bodies can be read only once. To replay requests with such bodies, put a
//! [`ReplayBodyLayer`] around the whole stack. It turns each body into a [`ReplayBody`]. Copies of
//! a `ReplayBody` share the original body as their source. The layer keeps the sent data while a
//! retry is possible. The newest attempt sends the kept data first and then the rest. A body that
//! is `Clone` does not need the layer.
//!
//! ```
//! use buttress::{
//!     Error,
//!     http::{ReplayBody, ReplayBodyLayer, ReplaySafe},
//!     retry::RetryLayer,
//! };
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use std::{io, sync::atomic::{AtomicU32, Ordering}};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! static CALLS: AtomicU32 = AtomicU32::new(0);
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Error<io::Error>> {
//! let client = ServiceBuilder::new()
//!     .layer(ReplayBodyLayer::new())
//!     .layer(RetryLayer::new(ReplaySafe::new()))
//!     .map_err(Error::Service)
//!     .service(service_fn(|request: Request<ReplayBody<Full<Bytes>>>| async move {
//!         let sent = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
//!         match CALLS.fetch_add(1, Ordering::Relaxed) {
//!             // The first attempt fails after the body was read.
//!             0 => Err(io::Error::other("broken pipe")),
//!             _ => Ok(Response::new(sent)),
//!         }
//!     }));
//!
//! let request = Request::put("/orders/1").body(Full::from("two apples")).unwrap();
//! assert_eq!(client.oneshot(request).await?.into_body(), "two apples");
//! # Ok(())
//! # }
//! ```
//!
//! # Kept data
//!
//! By default, the layer keeps up to 64 KiB of one request, and 16 MiB of all requests together.
//! See [`max_request_bytes`](super::ReplayBodyBuilder::max_request_bytes) and
//! [`max_total_bytes`](super::ReplayBodyBuilder::max_total_bytes). It keeps at most 1,024 frames of
//! one request. A request that exceeds a limit is streamed, and sent only once. No data is kept
//! during the last attempt, or after a response was accepted.
//!
//! [`ReplayBodyLayer::register`](super::ReplayBodyLayer::register) counts the requests that
//! exceeded a limit.
//!
//! # Abandoned attempts on the wire
//!
//! The body of an abandoned attempt ends with an error, so it never looks complete to the server.
//! Over HTTP/1 the connection is closed. Over HTTP/2 the stream is reset. Both happen before the
//! pause of a retry. A body that was already sent to its end cannot be revoked.
//!
//! [`ReplayBody`]: super::ReplayBody
//! [`ReplayBodyLayer`]: super::ReplayBodyLayer
//! [`ReplaySafe`]: super::ReplaySafe

pub(super) mod body;
mod config;
mod error;
mod kept_bytes;
pub(super) mod layer;
pub(super) mod policy;
mod prefix;
mod shared;
mod state;

pub use self::{body::ReplayableBody, error::ReplayBodyError, layer::MakeReplayable};
