//! Response caches, which share concurrent calls and can give an older response if a call fails.
//!
//! Put one around a dependency that is slow, that many callers ask for the same thing, or whose
//! last response is better than none. While a kept response is fresh, it is given without a call.
//! Callers that ask for the same thing at the same time share one call. With
//! [`if_error`](CacheBuilder::if_error), they get the last response if that call fails. With
//! [`last_good`](CacheBuilder::last_good), the service is called each time, and a kept response is
//! given only if that call fails.
//!
//! ```
//! use buttress::{Error, cache::CacheLayer};
//! use std::{io, time::Duration};
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cache = CacheLayer::by_fn(|currency: &&'static str| Some(*currency))
//!     .ttl(Duration::from_secs(60))
//!     .if_error(Duration::from_secs(3_600))
//!     .build()?;
//! let handle = cache.handle();
//!
//! let rates = service_fn(|_currency: &'static str| async { Ok::<f64, io::Error>(1.08) });
//! let mut rates = ServiceBuilder::new()
//!     .layer(cache)
//!     .map_err(Error::Service) // `Error` holds the service's error or a rejection.
//!     .service(rates);
//!
//! assert_eq!(rates.ready().await?.call("EUR").await?, 1.08);
//! // This response is the kept one.
//! assert_eq!(rates.ready().await?.call("EUR").await?, 1.08);
//! assert_eq!((handle.counts().misses, handle.counts().hits), (1, 1));
//! # Ok(())
//! # }
//! ```
//!
//! # What a caller gets
//!
//! | the entry of the key | the caller gets |
//! |---|---|
//! | is fresh, up to the [`ttl`](CacheBuilder::ttl) | the entry |
//! | is stale for less than one of the next two times, and a call has just failed | the entry, for the time of [`hold_off`](CacheBuilder::hold_off) |
//! | is stale for less than [`while_revalidate`](CacheBuilder::while_revalidate) | the entry, which one call then renews |
//! | is stale for less than [`if_error`](CacheBuilder::if_error) | the result of a call, or the entry if that fails |
//! | is older, or there is none | the result of a call |
//!
//! The first row that applies counts. An entry is stale from the end of its `ttl`, and both times
//! count from there. Once a call succeeds or fails permanently, an older entry is no longer given,
//! even if the newer response is not kept.
//!
//! # Shared calls
//!
//! A call is shared by all callers that ask for its key while it is under way. It runs in a task of
//! its own and belongs to none of them. The deadlines of the callers do not end it. It runs in the
//! span of the caller that began it. The service must be `Clone + Send + 'static`, and so must its
//! requests, responses and errors, except for `Clone`. Its futures must be `Send`. Without
//! [`if_error`](CacheBuilder::if_error), a caller waits for the call as long as the layers beneath
//! allow, so put a total timeout beneath the cache.
//!
//! A shared call that takes longer than twice the total timeout, or 60 s without one, may never
//! end. Callers that arrive later begin another call. If no caller waits for it, it is ended. With
//! a total timeout, it is ended even if callers wait for it, and counts as a call that has timed
//! out. They wait no longer than that, even if its runtime is no longer driven. Without a total
//! timeout, they go on waiting.
//!
//! - A response that is a failure is given to all callers that wait, unless there is an older one
//!   for them. Only a status that is set by `CacheBuilder::negative` is kept.
//! - An error is given to the caller that began the call. The others get a copy of its outcome and
//!   its cause, a [`SharedFailure`](crate::error::SharedFailure). A rejection is given to all.
//! - A response that is for one caller only is given to the caller that began the call. The others
//!   then each call the service, all at once. Later callers of the key call it without sharing, for
//!   one `ttl`, or for the time of [`hold_off`](CacheBuilder::hold_off) if that is longer.
//! - If the call panics, the caller that began it panics. The others each call the service.
//!
//! A caller may wait for a shared call, get nothing from it, and then ask for itself. Both together
//! have one limit: the total timeout of its [`Stack`](crate::Stack), counted from its arrival.
//!
//! # Readiness
//!
//! The service is always ready, because a kept response needs nothing beneath. A call waits in its
//! future until a clone of the wrapped service is ready.
//!
//! # Clone
//!
//! The entries and the shared calls belong to the layer. Every service that it creates, and every
//! clone, shares them.
//!
//! # Cancellation
//!
//! Dropping the future leaves the shared call. When the last caller leaves, the call is ended,
//! unless [`finish_abandoned`](CacheBuilder::finish_abandoned) is set, or a caller was given an
//! older response while the call was under way. A future that is never polled begins no call.
//!
//! # Errors
//!
//! - [`SharedFailure`](crate::error::SharedFailure) if another caller has the error itself.
//! - [`TimedOut`](crate::error::TimedOut) if a caller asked for itself after a shared call, and its
//!   own call was still under way at the limit; or if a shared call was ended.
//!
//! # Order
//!
//! Put the cache outside the total timeout. It can then give an older response if a call times out.
//! A hit runs no layer beneath, and takes no slot of a bulkhead. Put it inside a
//! [fallback](crate::fallback). If a fallback or another cache beneath gave the response, it is not
//! kept. A cache around a whole stack knows this only of HTTP responses.
//!
//! # On a server
//!
//! Put a `CacheLayer` around one handler, inside authentication and
//! [idempotency](crate::idempotency). Do not set one in the stack of a server, which is outside of
//! both. Whatever the handler reads of its caller must be in the key. A nested router, such as that
//! of axum's `nest`, removes its prefix from the URI. Put the cache outside of it, because the key
//! would be the same for `/users/1/orders` and `/users/2/orders`.
//!
//! # Telemetry
//!
//! | event | level |
//! |---|---|
//! | "stale response given", because the service has failed or takes too long | `WARN` |
//! | "response not kept", because its `vary` names a header that is not in the key, or because it is too big together with its key and headers | `WARN` |
//!
//! Both are written like rejections: the first at once, and then one in 10 s.
//!
//! A [registered](CacheLayer::register) cache counts its calls by result, and shows its entries,
//! their bytes and its shared calls.
//! [`Registry::control`](crate::telemetry::Registry::control) with
//! [`ForgetAll`](crate::telemetry::Control::ForgetAll) forgets all entries.

mod ask;
mod config;
mod counts;
pub(crate) mod describe;
mod entry;
pub mod future;
mod generations;
mod give;
mod handle;
mod hashing;
mod layer;
mod layer_state;
mod owned_service;
mod parts;
mod rules;
mod service;
mod shared;
mod shared_call;
mod store;
mod task;
#[cfg(test)]
mod tests;

pub use self::{
    counts::CacheCounts,
    handle::CacheHandle,
    layer::{CacheBuilder, CacheLayer},
    rules::{ByFn, CheckedRules, OwnKey, Probe, Rules},
    service::Cache,
};
#[cfg(feature = "http")]
pub(crate) use self::{
    hashing::KeyHasher,
    rules::{Forwarded, Given, How, KeepFor, Selected, Shareable},
};
