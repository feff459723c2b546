//! Faults on purpose in the bodies of HTTP responses.
//!
//! This layer is the counterpart of [`chaos`](crate::chaos) for bodies. While it is armed, it cuts
//! bodies off, or makes them stall or trickle. Use it to try the limits of a stack on bodies, and
//! the code that reads them. It is armed by the same kind of handle, and under the same
//! [rules](crate::chaos#arming).
//!
//! ```
//! use buttress::{BoxError, Stack, http::chaos::BodyChaosLayer};
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use std::{io, time::Duration};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), BoxError> {
//! let client = service_fn(|_: Request<Full<Bytes>>| async {
//!     Ok::<_, io::Error>(Response::new(Full::new(Bytes::from("two orders"))))
//! });
//!
//! let chaos = BodyChaosLayer::builder().cuts(1.0).build()?;
//! chaos.handle().arm_for(Duration::from_secs(60))?;
//! let client = Stack::standard_http().service(chaos.layer(client));
//!
//! let response = client.oneshot(Request::default()).await?;
//! let error = BoxError::from(response.into_body().collect().await.unwrap_err());
//! assert_eq!(error.to_string(), "the body was cut off by chaos");
//! # Ok(())
//! # }
//! ```
//!
//! The layer changes the type of the body. Disarmed, it allocates nothing and costs about a hundred
//! instructions for each call.
//!
//! # Faults
//!
//! | setter | the body |
//! |---|---|
//! | [`cuts`](BodyChaosBuilder::cuts) | fails after its first frame, or instead of it, see below |
//! | [`stalls`](BodyChaosBuilder::stalls) | stalls after its first frame |
//! | [`trickles`](BodyChaosBuilder::trickles) | pauses before each frame |
//!
//! A reader that knows the length of a body, such as hyper's server, does not ask for more once it
//! has the whole. If the first frame is the whole of such a body, a cut therefore comes instead of
//! it. A stall after it is not seen, and does not count.
//!
//! A fault is drawn when a response arrives whose call began while the layer was armed. A body
//! without data has none, and no number, so each fault has its share of the other bodies. When the
//! layer is disarmed, a body that stalls or trickles goes on, and one that is not cut off yet will
//! not be. A cut also loses the trailers, and with them the status of a gRPC call, unless they are
//! the first frame.
//!
//! # Readiness
//!
//! The layer forwards readiness.
//!
//! # Clone
//!
//! The clones of a layer, and all services made from it, share its switch and the numbers of the
//! calls.
//!
//! # Cancellation
//!
//! Dropping a body drops the inner body, and ends its fault. A body that was cut off drops the
//! inner body at once.
//!
//! # Errors
//!
//! The layer does not change the error type of the service. The error of a body becomes a
//! [`ChaosBodyError`].
//!
//! # Order
//!
//! Next to the client, beneath [`http()`](crate::Stack::http). To inject other faults too, put it
//! around a [`ChaosLayer`](crate::chaos::ChaosLayer) or beneath one. Each has its own handle.
//!
//! # On a server
//!
//! It can stand next to the handler, to try the clients. Hyper then resets the connection or the
//! stream of a body that was cut off.
//!
//! # Telemetry
//!
//! It has the [events and metrics](crate::chaos#telemetry) of the other chaos layer, with the
//! faults `body_cut`, `body_stall` and `body_trickle`. A fault counts when it begins. One that does
//! not begin does not count, for example because the body is dropped before.

mod body;
pub mod future;
mod layer;
mod service;
mod shared;

pub use self::{
    body::{ChaosBody, ChaosBodyError},
    layer::{BodyChaosBuilder, BodyChaosLayer},
    service::BodyChaos,
};
