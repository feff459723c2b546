//! HTTP and gRPC support: classification, completion, replay, and the headers between hops.
//!
//! Put [`Stack::http`](crate::Stack::http) around an HTTP or gRPC client, and an
//! [`HttpServerLayer`] around the handlers of a server. Neither is useful around anything else. A
//! stack whose requests are `Clone` and do not come from HTTP needs nothing from this module.
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
//! With your own settings:
//!
//! ```
//! use buttress::{
//!     Fault, Outcome, Stack,
//!     http::{HttpClassifier, HttpClientLayer, ReplaySafe},
//! };
//! use http::{Method, Request, Response, StatusCode};
//! use std::time::Duration;
//! use tower::service_fn;
//!
//! // This server responds with 409 when it is busy.
//! let busy = Outcome::Failure(Fault::Overloaded { retry_after: None });
//! let layer = HttpClientLayer::builder()
//!     .classify(HttpClassifier::new().status(StatusCode::CONFLICT, busy))
//!     .body_idle(Duration::from_secs(5))
//!     .for_envoy()
//!     .build()?;
//! // Its searches are POSTs that change nothing.
//! let replay = ReplaySafe::new()
//!     .also_fn(|request| request.method() == Method::POST && request.uri().path() == "/search");
//!
//! let client = service_fn(|_: Request<String>| async {
//!     Ok::<_, std::io::Error>(Response::new("two orders".to_owned()))
//! });
//! let client = Stack::standard(replay).http_client(layer).service(client);
//! # let _ = client;
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! # Classification
//!
//! [`AutoClassifier`] classifies gRPC responses by their gRPC status and all other responses by
//! their HTTP status. The tables are at [`GrpcClassifier`] and [`HttpClassifier`].
//!
//! - A server can ask for a pause with `Retry-After` or `grpc-retry-pushback-ms`. The retry waits
//!   at least that long, and does not retry if the pause is longer than its
//!   [`hint_cap`](crate::retry::RetryBuilder::hint_cap). A breaker that opens stays open for at
//!   least that long, up to its
//!   [`max_open_for`](crate::circuit_breaker::CircuitBreakerBuilder::max_open_for).
//! - A server can forbid a retry. The retry then stops.
//! - A server that is still processing the same request responds with a 409 or an `ABORTED` and a
//!   time to come back. The retry may retry it, and no breaker counts it.
//! - Nothing in a response can force a retry.
//!
//! # The end of a call
//!
//! A call ends when the body of its response ends. It ends at the head if no body follows.
//! Otherwise it ends with the trailers, with the last data if there are no trailers, with an error,
//! at a limit, or when the body is dropped. Until then the [`ResponseBody`] holds the permit of the
//! bulkhead, the admission to the breaker, and the spans. Read a body to its end, or drop it.
//!
//! A read waits at most 30 s for a frame ([`HttpClientBuilder::body_idle`]). For gRPC the deadline
//! also covers the last frame, because the server was told the deadline. A streaming call therefore
//! needs a stack whose timeouts, the attempt timeout included, are as long as the stream. It also
//! needs its own breaker, because a stream that is cut off counts against the service. A stream
//! that may be silent needs [`without_body_idle`](HttpClientBuilder::without_body_idle).
//!
//! Dropping a body early is the reader's choice. The breaker counts it like this:
//!
//! | the body is dropped | the breaker counts |
//! |---|---|
//! | while no read is pending, after a successful head | a success |
//! | while no read is pending, before the gRPC status has arrived | nothing |
//! | while a read is pending | a failure if the read has waited for [`abandoned_after`], otherwise nothing |
//!
//! Time in which nobody reads does not count against the service.
//!
//! # Replay
//!
//! [`ReplaySafe`] selects the requests that may be sent again: those with an idempotent method,
//! those that received a key from a [`SetIdempotencyKeyLayer`], and those that are proven not to
//! have been processed.
//!
//! A body that is `Clone` is cloned. Any other body is kept in a [`ReplayBody`], up to a cap. For
//! that, put a [`ReplayBodyLayer`] around the finished stack, and let the client send
//! `ReplayBody<B>`.
//!
//! Two properties of clients matter here:
//!
//! - A client that follows redirects beneath the stack makes a refused connection no proof, because
//!   an earlier server may have processed the request. The adapter for reqwest accounts for that.
//! - Some clients retry on their own. Build hyper's client with `retry_canceled_requests(false)`.
//!   The adapter for reqwest switches reqwest's retries off.
//!
//! A refused connection is recognised without further features. Other proofs need the feature
//! `hyper`.
//!
//! # Between hops
//!
//! A client tells the next hop how much time is left and which attempt this is. A server tells the
//! hop above whether a retry is worthwhile. See [`wire`] for the headers. An [`HttpServerLayer`]
//! enforces the time and sends the advice.
//!
//! With a [budget](crate::retry::Budget) in each hop, a service at the end of a path receives at
//! most `(1 + ratio) * calls + floor` calls, whether it rejects or hangs. The price is that only
//! the budget of one hop is spent, instead of the budget of each. Fewer calls therefore recover
//! when only some fail. Over three hops and a service that fails 30 % of the time, about 78 %
//! succeed instead of 94 %.
//!
//! # Readiness
//!
//! [`HttpClient`] and [`HttpServer`](server::HttpServer) forward the readiness of their service.
//!
//! # Clone
//!
//! Clones share the settings and the counts of malformed headers.
//!
//! # Cancellation
//!
//! Dropping the future drops the request. Dropping the body of the response ends the call.
//!
//! # Errors
//!
//! [`DeadlineExceeded`](crate::error::DeadlineExceeded) if too little time is left to write into
//! the request. The error of a body is a [`BodyError`].
//!
//! # Order
//!
//! The client layer is innermost. It then writes the time that is left anew for each attempt, after
//! any time spent in a queue.
//!
//! # Telemetry
//!
//! The span of an attempt has the field `http.request.resend_count` if the attempt sends an HTTP
//! request again. A body that reaches a limit emits a `WARN` event, "call timed out". Malformed
//! headers are counted: see [`HttpClientLayer::malformed_headers`] and
//! [`HttpServerLayer::malformed_headers`].
//!
//! [`abandoned_after`]: crate::circuit_breaker::CircuitBreakerBuilder::abandoned_after

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
