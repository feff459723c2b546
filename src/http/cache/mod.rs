//! The rules of a [cache](crate::cache) for HTTP: requests, responses and headers.
//!
//! ```
//! use buttress::{Stack, cache::CacheLayer};
//! use http::{Request, Response};
//! use std::time::Duration;
//! use tower::{Service, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), buttress::BoxError> {
//! let cache = CacheLayer::http()
//!     .ttl(Duration::from_secs(60))
//!     .if_error(Duration::from_secs(3_600))
//!     .build()?;
//! let client = service_fn(|_: Request<String>| async {
//!     Ok::<_, std::io::Error>(Response::new("two orders".to_owned()))
//! });
//! let mut client = Stack::standard_http().cache(cache).service(client);
//!
//! for status in ["buttress; fwd=uri-miss", "buttress; hit; ttl=5"] {
//!     let request = Request::get("http://orders.internal/").body(String::new())?;
//!     let response = client.ready().await?.call(request).await?;
//!     assert!(response.headers()["cache-status"].to_str()?.starts_with(status));
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Requests
//!
//! The key of a `GET` or `HEAD` is its method, its whole URI, and its headers `host`, `accept`,
//! `accept-encoding` and `accept-language`. [`vary`] adds headers to the key. The response to a
//! request is neither kept nor shared
//!
//! - if the request has `authorization`, `proxy-authorization` or `cookie`, or its URI has a user,
//!   unless a [`scope_fn`] returns its user;
//! - if it has an idempotency key, a body, `range`, `upgrade` or `expect`, is conditional, or has
//!   `cache-control` or `pragma`;
//! - if a header of the key has several lines.
//!
//! A request with any other method than `GET`, `HEAD`, `OPTIONS` and `TRACE` forgets all responses
//! for its URI when it begins and when it ends, even if it times out or is dropped. The host is
//! that of the header `host`, or else that of the URI, in any spelling. The caches of other
//! processes keep theirs.
//!
//! # Responses
//!
//! A response is kept if its outcome is a success and its status is 200, 203, 204, 300, 301 or 308.
//! [`negative`] adds statuses. Every other response, such as a 503, is given only to the callers
//! that wait for it. A response is given to one caller only
//!
//! - if it has `set-cookie`, or `no-store` or `private` in `cache-control`;
//! - if its `vary` is `*` or names a header that is not in the key;
//! - if it is longer than [`max_entry_bytes`](crate::cache::CacheBuilder::max_entry_bytes), is a
//!   `text/event-stream`, or has an unknown length and has not arrived with its head. Its caller
//!   gets it at once, as a stream;
//! - if its body takes longer than half of the time that is left of the total timeout after the
//!   head. An unknown total timeout counts as 5 s;
//! - if it is a part (206), or its body breaks off.
//!
//! A response whose body is short enough, but not together with its headers and its key, is given
//! to all callers that wait for it, and is not kept. The event "response not kept" says so.
//!
//! `max-age`, `s-maxage` and `expires` shorten the time of the cache and never lengthen it. They
//! count from the begin of the call, and the header `age` of the response counts too. With
//! `no-cache`, a response is not kept. With `must-revalidate`, `proxy-revalidate` or `s-maxage`, it
//! is not given when it is no longer fresh.
//!
//! A kept response has all headers but those of its connection. It gets `age`, and `cache-status`
//! of [RFC 9211] with the name `buttress`. A stale one also has the extension
//! [`Degraded`](super::Degraded), if the service has failed. Extensions are not kept, except the
//! URL of a reqwest response after redirects.
//!
//! The cache does not revalidate with the service, so `etag` and `last-modified` are not used.
//!
//! [RFC 9211]: https://www.rfc-editor.org/rfc/rfc9211
//! [`vary`]: crate::cache::CacheBuilder::vary
//! [`scope_fn`]: crate::cache::CacheBuilder::scope_fn
//! [`negative`]: crate::cache::CacheBuilder::negative

mod control;
mod key;
mod layer;
mod rules;
mod value;

pub use self::{
    key::{HttpKey, HttpProbe},
    rules::HttpRules,
    value::HttpValue,
};
