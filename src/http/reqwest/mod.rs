//! A stack around a reqwest client, and an adapter that makes `reqwest` a tower service.
//!
//! [`client`] puts a stack around a `reqwest::Client` and keeps reqwest's way to write a request.
//! The client's cookies, default headers, proxies and decoders work as before, in each attempt.
//! [`ReqwestClient`] is the adapter beneath it, for your own combination of layers.
//!
//! ```no_run
//! use buttress::{
//!     BoxError, Stack,
//!     http::{
//!         SetIdempotencyKeyLayer,
//!         reqwest::{ReqwestClient, client},
//!     },
//! };
//! use reqwest::redirect::Policy;
//!
//! # async fn f() -> Result<(), BoxError> {
//! let http = ReqwestClient::new(reqwest::Client::builder(), Policy::default())?;
//! // The bank honours idempotency keys, so a POST may be sent again.
//! let stack = Stack::standard_http().around_call(SetIdempotencyKeyLayer::new());
//! let bank = client(http, stack);
//!
//! let response = bank.post("https://bank.internal/payments").body("42 EUR").send().await?;
//! println!("{} from {}", response.status(), response.url());
//! println!("{}", response.error_for_status()?.text().await?);
//! # Ok(())
//! # }
//! ```
//!
//! # Bodies
//!
//! A body of bytes or text, such as JSON, is shared by all attempts. A stream is kept while a retry
//! may need it, up to 64 KiB, as by a [`ReplayBodyLayer`](super::ReplayBodyLayer). A longer stream
//! is sent only once. A multipart form is a stream, even if all its parts are bytes. The stack's
//! [`ReplaySafe`](super::ReplaySafe) decides which requests are sent again.
//!
//! The call ends with the body of its response. Read it to its end, or drop it.
//!
//! # Timeouts
//!
//! The [timeout of a request](StackedRequest::timeout) covers the whole call with all attempts, and
//! the body of its response. The total timeout of the stack covers the body only with
//! [`body_deadline`](super::HttpClientBuilder::body_deadline). The shortest timeout wins.
//!
//! The timeouts of reqwest's `ClientBuilder` apply to each attempt. An attempt that one of them
//! ends counts as timed out, and may be retried. The server is not told of them. As with reqwest
//! alone, the timeout of a request replaces the `timeout` of the client.
//!
//! # Redirects
//!
//! All redirects that reqwest follows belong to one attempt, and share its timeout. reqwest sends a
//! body of bytes again after a 307 or 308. It does not follow them with a stream. The response has
//! the final URL. A redirect loop is an error that is not retried.
//!
//! reqwest follows redirects beneath the layers, and copies the headers that they have added. To
//! another origin it does not send `Authorization`, `Cookie` and `Proxy-Authorization`. It does
//! send the headers of this crate: the time left, the number of the attempt, and the idempotency
//! key. If these must not reach other origins, do not follow such redirects:
//!
//! ```no_run
//! use buttress::http::reqwest::{ReqwestBody, ReqwestClient};
//! use reqwest::redirect::Policy;
//!
//! let same_origin = Policy::custom(|attempt| {
//!     let first = attempt.previous().first().map(|url| url.origin());
//!     if first != Some(attempt.url().origin()) {
//!         return attempt.stop();
//!     }
//!     // A custom policy needs its own limit.
//!     if attempt.previous().len() > 10 {
//!         return attempt.error("too many redirects");
//!     }
//!     attempt.follow()
//! });
//! let http = ReqwestClient::<ReqwestBody>::new(reqwest::Client::builder(), same_origin)?;
//! # Ok::<(), reqwest::Error>(())
//! ```
//!
//! # Several instances
//!
//! [`client`] takes one client. For [`Endpoints`](crate::endpoints), make a [`ReqwestClient`] for
//! each address, and put a stack around the endpoints, as in this
//! [recipe](crate::guide::frameworks#how-do-i-call-several-instances-with-reqwest).
//!
//! # Degraded responses
//!
//! The mark of a degraded response is in the extensions of the `reqwest::Response` too:
//! `response.extensions().get::<Degraded>()`. See [`Degraded`](super::Degraded).
//!
//! # Errors
//!
//! [`send`](StackedRequest::send) fails with [`Error<ReqwestError>`](crate::Error). Its text has
//! the reason, such as "circuit breaker: the circuit is open, retry in 12 s".
//! [`rejection`](crate::CarryRejection::rejection) returns the rejection. The errors of a
//! `reqwest::Response` convert to it by `?`. If a limit ended the body, the result is the rejection
//! of that limit. The `is_timeout` of reqwest's error is then `true` for a timeout.
//!
//! A request with an invalid URL or header is not sent, and no layer counts it as a failure.

mod body;
mod client;
mod response;
mod stacked;

pub use self::{
    body::ReqwestBody,
    client::{ReqwestClient, ReqwestError},
    stacked::{StackedClient, StackedRequest, client},
};

/// Futures of the reqwest service.
pub mod future {
    pub use super::client::ReqwestFuture;
}
