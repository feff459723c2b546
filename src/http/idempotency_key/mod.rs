//! Gives each call of a client an idempotency key, the same for all its attempts.
//!
//! Put a [`SetIdempotencyKeyLayer`] around the whole stack of a client. The server must process
//! two requests with the same key only once. A server with the [idempotency
//! layer](crate::idempotency) does this. Do not use a `SetIdempotencyKeyLayer` for servers that
//! ignore the header. They would process a request twice, because a POST with a key is replayed.
//!
//! ```
//! use buttress::{Stack, http::SetIdempotencyKeyLayer};
//! use http::{Request, Response};
//! use std::sync::atomic::{AtomicU32, Ordering};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! static CALLS: AtomicU32 = AtomicU32::new(0);
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), buttress::BoxError> {
//! let server = service_fn(|request: Request<String>| async move {
//!     let key = request.headers()["idempotency-key"].to_str().unwrap().to_owned();
//!     match CALLS.fetch_add(1, Ordering::Relaxed) {
//!         // The first attempt fails. The second has the same key.
//!         0 => Err(std::io::Error::other("broken pipe")),
//!         _ => Ok(Response::new(key)),
//!     }
//! });
//! let stack = Stack::standard_http();
//! let client = SetIdempotencyKeyLayer::new().layer(stack.service(server));
//!
//! let payment = Request::post("http://bank.internal/payments").body("100".to_owned())?;
//! assert_eq!(client.oneshot(payment).await?.status(), 200);
//! assert_eq!(CALLS.load(Ordering::Relaxed), 2);
//! # Ok(())
//! # }
//! ```
//!
//! The next example is for a server that expects keys without quotes, on some routes only. Its
//! key outlives the process, because a payment that is retried after a crash must have the same
//! key:
//!
//! ```
//! use buttress::{http::{GivenKey, SetIdempotencyKeyLayer}, idempotency::Key};
//! use http::{Method, Request};
//!
//! let layer = SetIdempotencyKeyLayer::builder()
//!     .bare()
//!     .for_requests_fn(|head| *head.method() == Method::POST && head.uri().path() != "/search")
//!     .build()?;
//!
//! let mut request = Request::post("/payments").body(())?;
//! request.extensions_mut().insert(GivenKey::new(Key::new("payment-4711")?));
//! # let _ = (layer, request);
//! # Ok::<(), buttress::BoxError>(())
//! ```
//!
//! A handler behind the idempotency layer may call other services. Give each of these calls a key
//! such as `GivenKey::new(run.child_key("charge"))`, with the [`Run`](crate::idempotency::Run) from
//! the extensions of the handler's request. This key is the same in every run of the operation.
//!
//! # Which requests get a key
//!
//! | request | sent with | may be replayed |
//! |---|---|---|
//! | with a [`GivenKey`], whatever the method | the given key | yes |
//! | with the header | the unchanged header | only if the layer [trusts the header](super::SetIdempotencyKeyBuilder::trust_header) |
//! | a POST or PATCH except gRPC, or as set by [`for_requests_fn`](super::SetIdempotencyKeyBuilder::for_requests_fn) | a new key | yes |
//! | any other | no key | as without the layer |
//!
//! gRPC has no standard header for a key, and few servers honour one. For a server that does,
//! select its calls with `for_requests_fn`. The key is then sent as metadata.
//!
//! A request that may be replayed has the extension [`ClientKey`](super::ClientKey), which
//! [`ReplaySafe`](super::ReplaySafe) checks. The header alone does not count, because a proxy
//! forwards the headers of its callers.
//!
//! # Responses of the server
//!
//! | response | meaning | effect |
//! |---|---|---|
//! | 409 with `Retry-After`, or `ABORTED` with a pushback | the same request is in progress | the call pauses and is retried ([`Fault::InProgress`](crate::Fault::InProgress)), and a circuit breaker counts a response of a healthy server |
//! | 409 without `Retry-After`, 422 or `FAILED_PRECONDITION` | the outcome of the request is unknown, its response was not kept, or the key was used for another request | the response is returned unchanged |
//!
//! The number of [`retries`](crate::retry::RetryBuilder::retries) limits how often the client asks
//! again. A call is not retried if the server asks for a pause longer than
//! [`hint_cap`](crate::retry::RetryBuilder::hint_cap), which is 2 s by default. For requests that
//! take longer, raise both settings. If the retries are exhausted, the caller receives the 409. The
//! caller may repeat the call with the same `GivenKey`.
//!
//! # How long a server must remember a key
//!
//! A server must remember a key for longer than a client may retry. The longest time of a call is
//! [`Explanation::worst_time`](crate::stack::Explanation::worst_time). Let the server remember keys
//! for at least twice that time, as a safety margin. It must remember a `GivenKey` for as long as
//! *you* may use the key again.
//!
//! ```
//! use buttress::Stack;
//! use std::time::Duration;
//!
//! let remembered = Duration::from_secs(24 * 60 * 60);
//! let horizon = Stack::standard_http().explain().worst_time();
//! assert!(horizon.is_some_and(|horizon| 2 * horizon <= remembered));
//! ```
//!
//! # Readiness
//!
//! Forwarded from the service.
//!
//! # Clone
//!
//! Clones share the settings. There is no other state. Each call of each clone has its own key.
//!
//! # Cancellation
//!
//! The future is the future of the service. If the caller drops it and calls again, the new call
//! has a new key, unless the key was given.
//!
//! # Errors
//!
//! The layer adds no errors.
//!
//! # Order
//!
//! Outside the [retry](crate::retry), and on either side of a
//! [`ReplayBodyLayer`](super::ReplayBodyLayer). Inside a retry, each attempt would have its own
//! key, and the server could not recognise the attempts as one call.
//!
//! # Telemetry
//!
//! None.
//!
//! [`GivenKey`]: super::GivenKey
//! [`SetIdempotencyKeyLayer`]: super::SetIdempotencyKeyLayer

pub(super) mod config;
pub(super) mod layer;
mod service;
mod uuid;

pub use self::service::SetIdempotencyKey;
