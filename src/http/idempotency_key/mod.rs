//! Gives each call of a client an idempotency key, the same for all its attempts.
//!
//! Put a [`SetIdempotencyKeyLayer`] around the whole stack of a client whose server does only once
//! what comes twice with the same key, as one with our [guard](crate::idempotency) does. It is not
//! for servers that do not know the header: they would do it twice, for with a key a POST is sent
//! again.
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
//! For a server that wants keys without quotes, on some routes only, and with a key that outlives the
//! process: a payment that is tried again after a crash must have the key that it had.
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
//! A handler behind the guard gives what it calls in turn a key by
//! `GivenKey::new(run.child_key("charge"))`, with the [`Run`](crate::idempotency::Run) from the
//! extensions of its request: it is the same in every run.
//!
//! # Which requests get one
//!
//! | the request | is sent with | may be sent again |
//! |---|---|---|
//! | has a [`GivenKey`], whatever it is | that key | yes |
//! | has the header | the header as it is | only if the layer is told to [`trust_header`](super::SetIdempotencyKeyBuilder::trust_header) |
//! | is a POST or a PATCH and not gRPC, or as [`for_requests_fn`](super::SetIdempotencyKeyBuilder::for_requests_fn) says | a new key | yes |
//! | any other | no key | as without the layer |
//!
//! gRPC has no such header of its own, and few servers honour one: for those that do, say so by
//! `for_requests_fn`, and the header goes among the metadata.
//!
//! "May be sent again" is the extension [`ClientKey`](super::ClientKey), which
//! [`ReplaySafe`](super::ReplaySafe) goes by. The header alone does not count, for a proxy passes on what
//! its callers wrote.
//!
//! # What a server answers
//!
//! | answer | what is done |
//! |---|---|
//! | 409 with `Retry-After`, `ABORTED` with a pushback: the same request is under way | waited for, and sent again ([`Fault::InProgress`](crate::Fault::InProgress)); no breaker counts it |
//! | 409 without, 422, `FAILED_PRECONDITION`: it is not known what became of the request, or the key was used for another | returned as it is |
//!
//! It is asked again as often as the retry allows, and not if it names a longer time than the
//! [`hint_cap`](crate::retry::RetryBuilder::hint_cap) of 2 s: for work that takes longer, raise both. What is left is the
//! 409, and the call may be made again with the same `GivenKey`.
//!
//! # How long a server must remember
//!
//! For longer than a client may retry: the longest time that a call can take, which
//! [`Explanation::worst_time`](crate::stack::Explanation::worst_time) says, and twice that to be sure. With a
//! `GivenKey` it is as long as *you* may come back with the key.
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
//! Forwarded.
//!
//! # Clone
//!
//! The settings are shared; there is no state. Each call of each clone has a key of its own.
//!
//! # Cancellation
//!
//! The future is that of the service beneath. Who drops it and calls again has a new key, unless it was
//! given.
//!
//! # Errors
//!
//! None of its own.
//!
//! # Order
//!
//! Outside the [retry](crate::retry), on either side of a [`ReplayBodyLayer`](super::ReplayBodyLayer).
//! Inside a retry each attempt would have a key of its own, and no server could know that they are one.
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
