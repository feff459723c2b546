//! At home in HTTP and gRPC: what an answer means, when a call has ended, what may be sent again, and what
//! the next hop has to know.
//!
//! Put [`Stack::http`](crate::Stack::http) around a client that speaks HTTP or gRPC, and a
//! [`HttpServerLayer`] around the handlers of a server. Neither is of use around anything else; and
//! a stack of `Clone` requests that are not HTTP's needs nothing from here.
//!
//! ```
//! use buttress::Stack;
//! use http::{Request, Response};
//! use tower::{ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), buttress::BoxError> {
//! let client = service_fn(|_: Request<String>| async {
//!     Ok::<_, std::io::Error>(Response::new("two orders".to_owned()))
//! });
//! let client = Stack::standard_http().service(client);
//!
//! let request = Request::get("http://orders.internal/").body(String::new())?;
//! assert_eq!(client.oneshot(request).await?.status(), 200);
//! # Ok(())
//! # }
//! ```
//!
//! With settings of one's own:
//!
//! ```
//! use buttress::{
//!     Fault, Outcome, Stack,
//!     http::{HttpClassifier, HttpClientLayer, ReplaySafe},
//!     retry::RetryLayer,
//! };
//! use http::{Method, StatusCode};
//! use std::time::Duration;
//!
//! // 409 is how this service says that it is busy.
//! let busy = Outcome::Failure(Fault::Overloaded { retry_after: None });
//! let client = HttpClientLayer::builder()
//!     .classify(HttpClassifier::new().status(StatusCode::CONFLICT, busy))
//!     .body_idle(Duration::from_secs(5))
//!     .for_envoy()
//!     .build()?;
//! // Its searches are POSTs, and harmless.
//! let replay = ReplaySafe::new()
//!     .also_fn(|request| request.method() == Method::POST && request.uri().path() == "/search");
//!
//! let stack = Stack::standard(replay).http_client(client);
//! # let _ = stack;
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! # What an answer means
//!
//! [`AutoClassifier`] judges gRPC answers by their gRPC status and all others by their HTTP status; the
//! tables are at [`GrpcClassifier`] and [`HttpClassifier`]. A server's wish to be left alone
//! (`Retry-After`, `grpc-retry-pushback-ms`) is heeded by the retry, up to its
//! [`hint_cap`](crate::retry::RetryBuilder::hint_cap), and by the breaker; its wish not to be asked again
//! by the retry. A server that is at work on the same request says when to come back: that allows a retry of
//! a 409 or an `ABORTED`, and no breaker counts it. Nothing in an answer can force a retry.
//!
//! # When a call has ended
//!
//! With the body of its response: at the head if there is nothing to come, with the trailers, without
//! trailers, with the last of the data, with an error, with a limit, or when nobody reads on. Until then
//! the [`ResponseBody`] has the slot of the bulkhead, the verdict of the breaker, and the spans. So read a
//! body to its end, or drop it.
//!
//! A reader waits no longer than 30 s for a frame ([`HttpClientBuilder::body_idle`]). Of gRPC the
//! last frame must be there before the deadline too, which was told to the server: a streaming call
//! needs a stack whose timeouts, that of the attempt too, are as long as the stream, and a breaker
//! of its own, since a stream that is cut counts against the service. One that is silent by nature
//! needs [`without_body_idle`](HttpClientBuilder::without_body_idle).
//!
//! Who drops a body gives up what was left of it, which is the reader's choice: a response whose head was well
//! has succeeded, unless the service had kept the reader waiting for
//! [`abandoned_after`](crate::circuit_breaker::CircuitBreakerBuilder::abandoned_after). Time in which nobody
//! reads is the reader's too.
//!
//! # What may be sent again
//!
//! [`ReplaySafe`] knows: idempotent methods, requests that a [`SetIdempotencyKeyLayer`] gave a key,
//! and what is proven not to have been processed. Bodies that are `Clone` are cloned; others are
//! kept in a [`ReplayBody`], up to a cap: put a [`ReplayBodyLayer`] around the finished stack, and
//! let the client send `ReplayBody<B>`. What follows redirects beneath the stack makes a refused
//! connection no proof; the adapter for reqwest knows of its own. Clients retry behind our back:
//! build hyper's with `retry_canceled_requests(false)`; the adapter for reqwest switches its
//! retries off. Which requests are recognised as not processed needs feature `hyper`; a refused
//! connection is recognised without.
//!
//! # What the next hop has to know
//!
//! How much time is left, which attempt this is, and whether it is worth trying again: see [`wire`]. A server
//! with an [`HttpServerLayer`] keeps to the first and says the last. Together with a
//! [budget](crate::retry::Budget) in each hop, a service at the end of a path sees no more than
//! `(1 + ratio) * calls + floor`, whether it refuses or hangs. The price: the budget of one hop is
//! spent, and not that of each, so fewer calls are healed when some fail. Over three hops and a service that fails
//! 30 % of the time about 78 % succeed, in place of 94 %.
//!
//! # Readiness
//!
//! [`HttpClient`] and [`HttpServer`](server::HttpServer) forward it.
//!
//! # Clone
//!
//! The settings are shared, and the counts of malformed headers.
//!
//! # Cancellation
//!
//! Dropping the future drops the request; dropping the body of the response ends the call.
//!
//! # Errors
//!
//! [`DeadlineExceeded`](crate::error::DeadlineExceeded) if there is no time left that could be written into a
//! request. The error of a body is a [`BodyError`].
//!
//! # Order
//!
//! The client layer stands innermost: the time left is written for each attempt anew, and not before the
//! queue.
//!
//! # Telemetry
//!
//! `http.request.resend_count` on the span of an attempt that sends an HTTP request again; a `WARN` event when
//! a body runs into a limit. Malformed headers are counted: [`HttpClientLayer::malformed_headers`],
//! [`HttpServerLayer::malformed_headers`].

mod body;
mod cause;
mod checks;
mod classify;
mod client;
mod failure;
pub mod future;
pub mod grpc;
mod head;
pub mod idempotency;
pub mod idempotency_key;
pub mod replay;
#[cfg(feature = "reqwest")]
pub mod reqwest;
pub mod server;
mod stack;
mod until_end;
pub mod wire;

pub use self::{
    body::{BodyError, ResponseBody},
    cause::Cause,
    classify::{AutoClassifier, GrpcClassifier, HttpClassifier},
    client::{HttpClient, HttpClientBuilder, HttpClientLayer},
    idempotency_key::{
        config::GivenKey,
        layer::{SetIdempotencyKeyBuilder, SetIdempotencyKeyLayer},
    },
    replay::{
        body::ReplayBody,
        layer::{ReplayBodyBuilder, ReplayBodyLayer},
        policy::{ClientKey, ReplaySafe, RequestHead},
    },
    server::{
        config::Trust,
        layer::{HttpServerBuilder, HttpServerLayer},
    },
    stack::{HttpStack, HttpStackService},
    until_end::UntilEnd,
};
