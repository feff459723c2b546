//! Sends HTTP requests again, with their bodies, where that is safe.
//!
//! A body is read once, as it is sent. So that a request can be sent again [`ReplayBodyLayer`], the
//! outermost layer, makes its body a [`ReplayBody`]: copies share the one source, what was sent is
//! kept for as long as a retry may follow, and the newest attempt sends that and then the rest.
//! [`ReplaySafe`] is the policy that says which requests are safe to repeat.
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
//! use std::sync::atomic::{AtomicU32, Ordering};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! static CALLS: AtomicU32 = AtomicU32::new(0);
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Error<std::io::Error>> {
//! let client = ServiceBuilder::new()
//!     .layer(ReplayBodyLayer::new())
//!     .layer(RetryLayer::new(ReplaySafe::new()))
//!     .service(service_fn(|request: Request<ReplayBody<Full<Bytes>>>| async move {
//!         let sent = request.into_body().collect().await.unwrap().to_bytes();
//!         match CALLS.fetch_add(1, Ordering::Relaxed) {
//!             0 => Err(Error::Service(std::io::Error::other("broken pipe"))),
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
//! # What is kept
//!
//! Up to 64 KiB (in 1,024 frames) of one request, and 16 MiB of all requests of one layer; see
//! [`max_request_bytes`](super::ReplayBodyBuilder::max_request_bytes) and
//! [`max_total_bytes`](super::ReplayBodyBuilder::max_total_bytes). What grows past either is sent
//! as it comes, and only once. Nothing is kept of a request that is sent for the last time, and
//! nothing after its response was accepted.
//!
//! # What a server sees
//!
//! The body of an attempt that was given up ends with an error, never as if it were whole: over
//! HTTP/1 the connection is closed, over HTTP/2 the stream is reset. That is decided before the pause
//! of a retry. A body that had been handed over to its end by then cannot be called back.
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
