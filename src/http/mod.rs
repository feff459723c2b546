//! HTTP and gRPC support: classification, completion, replay, and the headers between hops.
//!
//! Use [`Stack::http`](crate::Stack::http) for an HTTP or gRPC client, and an [`HttpServerLayer`]
//! for the handlers of a server. Other services need nothing from this module.
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
//! - A server can ask for a pause with `Retry-After` or `grpc-retry-pushback-ms`. The retry layer
//!   waits at least that long. It gives up if the pause is longer than its
//!   [`hint_cap`](crate::retry::RetryBuilder::hint_cap). A breaker that opens stays open for at
//!   least that long, up to its
//!   [`max_open_for`](crate::circuit_breaker::CircuitBreakerBuilder::max_open_for). If most of the
//!   failures are such overloads (429, 503, `RESOURCE_EXHAUSTED`), it stays open [only that
//!   long](crate::circuit_breaker::CircuitBreakerBuilder::open_for).
//! - A server can forbid a retry with `x-should-retry: false` or a negative or malformed
//!   `grpc-retry-pushback-ms`. The retry layer then gives up.
//! - A 409 with `Retry-After`, or an `ABORTED` with `grpc-retry-pushback-ms`, means that the server
//!   is still processing the same request. The retry layer may retry it. For a breaker
//!   it is a response.
//! - No response can force a retry.
//!
//! # The end of a call
//!
//! A call ends when the body of its response ends, or at the head if there is no body. A body ends
//! with its trailers, or with its last data if there are no trailers. It also ends with an error,
//! at a limit, or when it is dropped. Until then the [`ResponseBody`] holds the permit of the
//! bulkhead, the admission of the breaker, and the spans. Always read a body to its end, or drop
//! it. The timeouts of an HTTP call end earlier, with the head.
//!
//! By default, a read waits at most 30 s for the next frame ([`HttpClientBuilder::body_idle`]). A
//! stream that may be silent for longer needs
//! [`without_body_idle`](HttpClientBuilder::without_body_idle).
//!
//! The deadline of an HTTP call covers only the head of the response, unless
//! [`body_deadline`](HttpClientBuilder::body_deadline) is set. The deadline of a gRPC call always
//! covers the body too, because the server was told the deadline. Use a separate stack for gRPC
//! streams. All of its timeouts, including the attempt timeout, must be as long as the streams. It
//! also needs its own breaker, because a stream that is cut off counts as a failure.
//!
//! A body that breaks off after a successful head cannot be retried, because the caller has the
//! response already. With [`body_buffer`](HttpClientBuilder::body_buffer), a small body is read
//! before its response is returned. The call ends then, and can be retried if the body has failed.
//!
//! If you drop a body early, the breaker counts the call as follows:
//!
//! | the body is dropped | the breaker counts |
//! |---|---|
//! | while no read is pending, after a successful head | a success |
//! | while no read is pending, before the gRPC status has arrived | nothing |
//! | while a read is pending | nothing, or a failure if [`abandoned_after`] is set and the read has waited for so long |
//!
//! A probe of a half-open breaker has passed if it is dropped after a successful head, except in a
//! case that is a failure. Otherwise streams whose readers leave would keep the breaker half-open.
//!
//! The time between two reads does not count against the service.
//!
//! # Replay
//!
//! [`ReplaySafe`] selects the requests that may be sent again: those with an idempotent method
//! unless they are conditional writes, those that received a key from a
//! [`SetIdempotencyKeyLayer`], and those that are proven not to have been processed.
//!
//! A body that is `Clone` is cloned. For any other body `B`, put a [`ReplayBodyLayer`] around the
//! finished stack, and let the client send `ReplayBody<B>`. A [`ReplayBody`] keeps the data that
//! was sent, up to 64 KiB by default.
//!
//! The feature `hyper` recognises the proofs that a request was not processed: a failure to
//! connect, a request that the client gave back unwritten, `REFUSED_STREAM` and `GOAWAY`. The
//! features `reqwest` and `tonic` enable it. Without it, only a refused connection is recognised.
//!
//! Check two properties of your client:
//!
//! - Redirects. A refused connection proves nothing if the client follows redirects, because an
//!   earlier server may have processed the request. The adapter for reqwest detects this case.
//! - Its own retries, which bypass the budget. hyper's client resends only what was never written,
//!   so keep its `retry_canceled_requests` at the default. The adapter for reqwest switches
//!   reqwest's retries off.
//!
//! # Between hops
//!
//! A request may pass through several services, which are called hops. A client tells the next hop
//! how much time is left and which attempt this is. A server tells its caller whether a retry is
//! useful. An [`HttpServerLayer`] enforces that time and sends that advice. See [`wire`] for the
//! headers.
//!
//! With a [budget](crate::retry::Budget) in each hop, the last service receives at most
//! `(1 + ratio) * calls + floor` calls, even if it fails every call or hangs. In addition, a call
//! that it says it has not processed (`REFUSED_STREAM`, `GOAWAY`) is resent once. To measure this,
//! run `cargo run --example retry_storm`.
//!
//! The price is that only one hop spends its budget, instead of every hop. Fewer calls recover if
//! the last service fails only now and then. For example, take three hops, each with a budget of
//! 10 %, and a service that fails 30 % of the time. One budget brings the successes from 70 % to
//! 77 %. Three budgets, one after the other, would bring them to 94 %. The example prints both.
//!
//! # Readiness
//!
//! [`HttpClient`] forwards the readiness of its inner service. [`HttpServer`](server::HttpServer)
//! is always ready, and its requests wait [within their limit](server#readiness).
//!
//! # Clone
//!
//! The clones of a layer or a service share its settings and its count of malformed headers.
//!
//! # Cancellation
//!
//! Dropping the future of a call drops the request. After the head, dropping the body of the
//! response ends the call.
//!
//! # Errors
//!
//! The client layer rejects a call with [`DeadlineExceeded`](crate::error::DeadlineExceeded) if
//! less time is left than its header can express: 1 ms for HTTP, 1 ns for gRPC. The request is not
//! sent. The error of a body is a [`BodyError`], which `?` turns into a
//! [`BoxError`](crate::BoxError). [`BodyError::rejection`] returns the rejection if a limit ended
//! the body, and so does [`CarryRejection::rejection`](crate::CarryRejection::rejection) of the
//! `BoxError`.
//!
//! # Order
//!
//! The client layer must be innermost. It then writes the remaining time for each attempt, after
//! any wait in a queue.
//!
//! # Telemetry
//!
//! The span of a retried attempt has the field `http.request.resend_count`, unless the client layer
//! is [`without_hop_headers`](HttpClientBuilder::without_hop_headers). A body that reaches a limit
//! emits a `WARN` event, "call timed out", in the span of the task that reads the body. Its
//! [kind](crate::telemetry::field::KIND) is `idle_response_body` or `response_body`. Its layer is
//! the name of the stack, or the kind. [`HttpClientLayer::malformed_headers`] and
//! [`HttpServerLayer::malformed_headers`] count malformed headers.
//!
//! In a stack that is [registered](crate::Stack::register), the client counts its rejections and
//! those of its bodies, and measures how long each body takes after its head. The retry counts the
//! hints of responses by what it did with them.
//!
//! [`abandoned_after`]: crate::circuit_breaker::CircuitBreakerBuilder::abandoned_after

mod ahead;
mod authority;
mod body_end;
mod body_error;
mod body_limits;
mod buffered_body;
pub mod cache;
mod cause;
pub mod chaos;
mod check;
mod checks;
mod classify;
mod client;
mod drain;
mod failure;
mod fallback;
pub mod future;
pub mod grpc;
mod head;
pub mod idempotency;
pub mod idempotency_key;
mod kept;
mod kept_extensions;
mod live_body;
mod pending_body;
mod prefixed;
mod read;
pub mod replay;
mod reporters;
#[cfg(feature = "reqwest")]
pub mod reqwest;
mod response_body;
pub mod server;
mod stack;
mod status;
mod unread;
mod until_end;
mod uploads;
pub mod wire;

pub use crate::call::degraded::Degraded;

pub use self::{
    authority::by_authority,
    body_error::BodyError,
    buffered_body::BufferedBody,
    cause::Cause,
    check::HttpCheck,
    classify::{AutoClassifier, GrpcClassifier, HttpClassifier},
    client::{HttpClient, HttpClientBuilder, HttpClientLayer},
    fallback::{FallbackResponse, fallback},
    idempotency_key::{
        config::GivenKey,
        layer::{SetIdempotencyKeyBuilder, SetIdempotencyKeyLayer},
    },
    replay::{
        body::ReplayBody,
        layer::{ReplayBodyBuilder, ReplayBodyLayer},
        policy::{ClientKey, ReplaySafe, RequestHead},
    },
    response_body::{ResponseBody, response},
    server::{
        config::Trust,
        layer::{HttpServerBuilder, HttpServerLayer},
    },
    stack::{HttpStack, HttpStackService},
    until_end::UntilEnd,
};
