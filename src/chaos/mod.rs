//! Faults on purpose, to try an outage before one comes.
//!
//! Put the layer next to the client, beneath all other layers. While it is armed, it delays calls,
//! fails them, lets them hang or loses their responses. To the layers above, this looks like the
//! service. Use it in tests, and in a running program to see what an outage would do.
//!
//! ```
//! use buttress::{Stack, chaos::ChaosLayer, retry::ReplayClones};
//! use std::{io, time::Duration};
//! use tower::{Layer, Service, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), buttress::BoxError> {
//! let client = service_fn(|path: &'static str| async move { Ok::<_, io::Error>(path.len()) });
//!
//! let chaos = ChaosLayer::builder()
//!     .seed(42)
//!     .errors_fn(0.05, || io::Error::from(io::ErrorKind::ConnectionReset))
//!     .delays(0.1, Duration::from_millis(300))
//!     .hangs(0.02)
//!     .build()?;
//! let handle = chaos.handle();
//! let mut client = Stack::standard(ReplayClones).service(chaos.layer(client));
//!
//! // A new layer is disarmed. From here on it injects faults, for at most one minute.
//! handle.arm_for(Duration::from_secs(60))?;
//! for _ in 0..100 {
//!     // The retries of the stack hide the faults, as long as their budget lasts.
//!     assert_eq!(client.ready().await?.call("/orders").await?, 7);
//! }
//! assert!(handle.injected() > 10);
//! handle.disarm();
//! # Ok(())
//! # }
//! ```
//!
//! # Faults
//!
//! | setter | the call | reaches the service |
//! |---|---|---|
//! | [`delays`](ChaosBuilder::delays) | is delayed | after the delay |
//! | [`errors_fn`](ChaosBuilder::errors_fn) | fails at once with an error of yours | no |
//! | [`responses_fn`](ChaosBuilder::responses_fn) | gets a response of yours at once, such as a 503 | no |
//! | [`hangs`](ChaosBuilder::hangs) | hangs | when the layer is disarmed |
//! | [`late_responses`](ChaosBuilder::late_responses) | takes effect, and its response is delayed | at once |
//! | [`lost_responses`](ChaosBuilder::lost_responses) | takes effect, and then hangs | at once |
//! | [`partition_fn`](ChaosBuilder::partition_fn) | hangs, if a closure says so | when the layer is disarmed |
//!
//! For the bodies of HTTP responses that are cut off, stall or trickle, there is
//! [`http::chaos`](crate::http::chaos).
//!
//! A call that hangs needs a timeout above the layer. It ends when it is dropped, and continues
//! when the layer is disarmed or the [window](ChaosBuilder::windows) ends. So nothing hangs for
//! longer than the layer is armed. At most [`max_hung`](ChaosBuilder::max_hung) calls hang at one
//! time.
//!
//! # Decisions
//!
//! The [seed](ChaosBuilder::seed) and the number of a call decide on its fault. The numbers begin
//! with zero each time that the layer is armed, so a failing run can be repeated. Concurrent calls
//! are numbered in the order in which they arrive, which may differ between runs. Of each 1,000
//! numbers, each fault has exactly its share, rounded up or down to whole calls. Calls that a
//! partition separates are numbered apart, and calls outside of the windows have no number.
//!
//! # Arming
//!
//! Only the program arms the layer, with [`ChaosHandle::arm_for`], for at most one hour. No header
//! of a request, environment variable, configuration file or feature of this crate does. If you
//! connect the handle to an admin endpoint, protect that endpoint.
//!
//! The layer is disarmed by [`ChaosHandle::disarm`], by
//! [`Registry::control`](crate::telemetry::Registry::control), and when its time is over. Dropping
//! the handles does not disarm it, so that a handler of your own can arm it and return. In a test
//! that may panic, disarm it in the `Drop` of a value of your own.
//!
//! A call has a fault only if it began while the layer was armed. When the layer is disarmed, the
//! calls that it holds continue. A breaker that the faults have opened stays open, by default for
//! 30 s. In a test, set a short
//! [`open_for`](crate::circuit_breaker::CircuitBreakerBuilder::open_for), or reset it by its
//! handle.
//!
//! A disarmed layer costs one load for each call. It can stay in the program that you ship.
//!
//! # Readiness
//!
//! The layer forwards readiness. When it keeps a request from the service, it drops the instance
//! that was ready and continues with a clone, so that nothing stays reserved. The service must
//! therefore be [`Clone`].
//!
//! # Clone
//!
//! The clones of a layer, and all services made from it, share its switch and the numbers of the
//! calls.
//!
//! # Cancellation
//!
//! Dropping the future of a call that is held drops the request, or the response. A request that
//! has not reached the service never does.
//!
//! # Errors
//!
//! The layer rejects nothing and does not change the error type. Its service may fail with any
//! error, so it belongs between the client and the stack:
//!
//! - `stack.service(chaos.layer(client))` if the client has a plain error. The error of the stack
//!   is [`Error<E>`](crate::Error).
//! - `stack.layer(chaos.layer(client))` if the error of the client can carry a rejection already,
//!   as that of another stack or [`BoxError`](crate::BoxError). The compiler then rejects
//!   `stack.service(..)`, which would nest two errors.
//!
//! # Order
//!
//! Innermost, beneath [`http()`](crate::Stack::http). Each layer then treats a fault like one of
//! the service, and a retry is numbered as a call of its own. Around a whole stack, the layer would
//! only try the caller. With [`Endpoints`](crate::endpoints), put one layer around each client that
//! their closure makes. Around the endpoints, an injected error would count against none of them.
//! Their checks are calls too, with numbers and faults.
//!
//! # On a server
//!
//! It can stand next to the handler, beneath the layers of the server, to try them and the clients.
//!
//! # Telemetry
//!
//! | event | level |
//! |---|---|
//! | "chaos armed", with the layer's name and the longest time | `WARN` |
//! | "chaos disarmed", with the number of injected faults; when its time is over, at the next call or reading of a registry | `WARN` |
//! | "fault injected", in the span of the call, with the fault and the number of the call | `DEBUG` |
//!
//! A [registered](ChaosLayer::register) layer shows whether it is armed, the faults that it
//! injected, and the calls that hang. Register it if it is in a program that you ship. Its outages
//! then have a name.

pub(crate) mod config;
pub(crate) mod draw;
mod faults;
pub mod future;
mod handle;
mod layer;
mod layer_state;
pub(crate) mod pause;
mod service;
mod shared;
pub(crate) mod switch;

pub use self::{
    faults::{Closure, MakeError, MakeResponse, Partition, Unset},
    handle::ChaosHandle,
    layer::{ChaosBuilder, ChaosLayer},
    service::Chaos,
};
