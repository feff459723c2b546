//! Calls to one of several instances of a service.
//!
//! [`Endpoints`] is a service, and not a layer. It has a service for each address, and chooses one
//! of them for each call. A retry goes to another one. A call that is not retried, such as a `POST`
//! without an idempotency key, is not sent to another one. An endpoint that fails several times in
//! a row gets no calls for some time. Put `Endpoints` beneath a [`Stack`](crate::Stack), as its
//! innermost service:
//!
//! ```
//! use buttress::{Error, Stack, endpoints::Endpoints, retry::ReplayClones};
//! use std::io;
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Error<io::Error>> {
//! let shops = Endpoints::new(["10.0.0.1:80", "10.0.0.2:80"], |address: &&str| {
//!     let is_up = *address == "10.0.0.2:80";
//!     service_fn(move |_path: &'static str| async move {
//!         if is_up { Ok(200) } else { Err(io::Error::other("connection refused")) }
//!     })
//! });
//! let fleet = shops.handle();
//! // The error of the endpoints can already carry a rejection, so they go to `layer`.
//! let shops = Stack::standard(ReplayClones).layer(shops);
//!
//! for _ in 0..20 {
//!     assert_eq!(shops.clone().oneshot("/").await?, 200);
//! }
//! assert_eq!(fleet.states()[1].calls, 20);
//! # Ok(())
//! # }
//! ```
//!
#![cfg_attr(feature = "http", doc = "Over HTTP, with a check of each endpoint:")]
#![cfg_attr(feature = "http", doc = "")]
#![cfg_attr(feature = "http", doc = "```")]
#![cfg_attr(not(feature = "http"), doc = "```text")]
//! use buttress::{Stack, endpoints::Endpoints, http::HttpCheck};
//! use bytes::Bytes;
//! use http::Uri;
//! use http_body_util::Full;
//! use hyper_util::{client::legacy::{Client, connect::HttpConnector}, rt::TokioExecutor};
//! use std::net::SocketAddr;
//! use tower::{Layer, ServiceExt};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let runtime = tokio::runtime::Runtime::new()?;
//! # let _entered = runtime.enter();
//! let addresses: [SocketAddr; 2] = ["10.0.0.1:80".parse()?, "10.0.0.2:80".parse()?];
//! let client_for = |address: &SocketAddr| {
//!     // The client connects to this address, whatever the URI of a request is.
//!     let instance: Uri = format!("http://{address}").parse().expect("an address is a URI");
//!     let connector = HttpConnector::new().map_request(move |_: Uri| instance.clone());
//!     Client::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(connector)
//! };
//! let shops = Endpoints::builder(addresses, client_for)
//!     .name("shop")
//!     .check(HttpCheck::get("http://shop/health")?)
//!     .build()?;
//! let fleet = shops.handle();
//! let client = Stack::standard_http().layer(shops);
//! fleet.drain(&addresses[0]);
//! # let _ = client;
//! # Ok(())
//! # }
//! ```
//!
//! A service of its own for each endpoint keeps its connections apart. It also keeps the host name
//! of the request, which TLS needs. A client must connect to its address whatever the URI of a
//! request is. A resolver of names is not enough: hyper does not ask it for an IP address, and
//! takes the port from the URI. With `reqwest`, give each client its address by `resolve`, and let
//! the URIs have a name without a port. With tonic, use `Endpoint::connect_lazy`, and check by the
//! health service of gRPC. The example `endpoints` in `examples/ecosystem` has all three.
//!
//! # The choice
//!
//! Two endpoints are drawn at random. The one with the smaller product of calls under way and
//! recent response time is called. A failure counts as a slow response. Otherwise an endpoint that
//! fails at once would seem to be idle and draw most calls.
//!
//! One choice in 32 is made by the calls under way alone. An endpoint that was slow is thus tried
//! again now and then, and gets its share once it is fast. An endpoint that is new or back gets its
//! share from the start. It is compared by its calls under way until eight calls have ended. The
//! first calls often wait for new connections, so the fastest of the eight counts. In this
//! comparison, each result since the last response doubles the number of calls.
//!
//! A result that the classifier ignores, such as a request that was given back, is no failure. From
//! the fifth without a response in between, it counts as a slow response in the choice.
//!
//! The time of a call begins with its first `Pending`, or when it is made if a layer around the
//! endpoints has read the clock for it. Without such a layer, a call that completes on its first
//! poll counts as one that takes no time, even if its service blocks the thread.
//!
//! With few calls at a time, the fastest endpoints get most of them, however small the difference
//! is.
//!
//! A [retry](crate::retry) goes to an endpoint that the call has not tried yet, if there is one in
//! the group that is in use or in the next one. The retry may be in this stack, or in another stack
//! around it. A call remembers the last four endpoints.
//!
//! # Endpoints that are out
//!
//! An endpoint is out, and gets no calls,
//!
//! - after five failures in a row. It is ejected for 30 s, the next time for 60 s, and so on. At
//!   most half of the endpoints are ejected, unless the calls then go to the next group, and never
//!   the last usable one. Two passed checks in a row end the ejection early.
//! - after three failed [checks](EndpointsBuilder::check) in a row, until two in a row have passed.
//! - while it is [drained](EndpointsHandle::drain).
//!
//! If less than half of a [group](EndpointsBuilder::group) is usable, the next group is used. If no
//! group has enough usable endpoints, calls go to all endpoints that are not drained, in all
//! groups, even to those that are out. The checks are then more likely to be wrong than the
//! endpoints.
//!
//! # What counts as a failure
//!
//! The classifier of the stack decides, as it does for the other layers. A response that streams
//! counts at its end, so a status of gRPC in the trailers counts. An attempt that times out has
//! failed, and so has one whose body reaches a limit. A call that its caller drops has failed only
//! if it ran longer than responses lately took, and if the endpoint has not responded for 10 s. If
//! the endpoint has never responded, the responses of the slowest other endpoint tell how long that
//! is. It is at most 2 s, and 2 s if no endpoint has responded. A body that its reader drops is no
//! failure. The retry layer reports the outcome to the endpoints, or the stack if it has no retry.
//! Without a stack, [`classify`](EndpointsBuilder::classify) decides when the response arrives.
//! `classify` also decides if a layer of your own between the stack and the endpoints holds a
//! result back.
//!
//! Put a layer of your own around the stack, and not between the stack and the endpoints, if it
//!
//! - turns an error into a response, because this hides the failure of the endpoint;
//! - makes two calls at once. If both end in one poll, the outcome counts for the last one.
//!
//! # Changes
//!
//! The [handle](Endpoints::handle) adds, removes and drains endpoints. Feed it from any source. For
//! the stream of tower's `Discover`:
//!
//! ```
//! use buttress::endpoints::EndpointsHandle;
//! use futures::{Stream, StreamExt};
//! use std::{net::SocketAddr, pin::pin};
//! use tower::discover::Change;
//!
//! async fn follow(
//!     changes: impl Stream<Item = Change<SocketAddr, ()>>,
//!     fleet: EndpointsHandle<SocketAddr>,
//! ) {
//!     let mut changes = pin!(changes);
//!     while let Some(change) = changes.next().await {
//!         match change {
//!             Change::Insert(address, ()) => fleet.insert(address),
//!             Change::Remove(address) => fleet.remove(&address),
//!         };
//!     }
//! }
//! ```
//!
//! For a name whose addresses change, see the recipe
//! [DNS](crate::guide::recipes#how-do-i-find-the-instances-by-dns).
//!
//! # Endpoints of endpoints
//!
//! The service of an endpoint may have endpoints too, such as the instances of a region. The
//! outcome of a call then counts for both. If other regions are only for an outage, use
//! [groups](EndpointsBuilder::group) instead.
//!
//! # Readiness
//!
//! Endpoints are always ready. The call waits in its future until a clone of the chosen service is
//! ready. If that fails, the call has failed, and the service is made anew, because a service that
//! reports an error instead of readiness is dead.
//!
//! # Clone
//!
//! All clones share the endpoints.
//!
//! # Cancellation
//!
//! A call is no longer under way when its future or its response is dropped, and after a panic of
//! the service, which is a failure.
//!
//! # Errors
//!
//! - [`NoEndpoint`](crate::error::NoEndpoint) if there is no endpoint, if all are drained, or if
//!   all that get calls have [`max_concurrent`](EndpointsBuilder::max_concurrent) calls.
//!
//! The error is [`Error`](crate::Error), because the services of the endpoints fail with errors
//! that carry no rejection. Do not put a layer that rejects around each of these services. Its
//! rejection would end the call while other endpoints are well.
//!
//! # Order
//!
//! Beneath a stack, as its service. [`Stack::explain`](crate::Stack::explain) does not know the
//! service that the stack is put around, and says nothing of its endpoints.
//!
//! The breaker of the stack counts the failures of all endpoints together. Two kinds of failures
//! say nothing about the calls to come, and the breaker ignores them: those of an endpoint that is
//! already out, and those of a group with another [group](EndpointsBuilder::group) behind it, which
//! will take the calls. A failure at the end of a body counts. With a
//! [`max_ejected`](EndpointsBuilder::max_ejected) of 0, failures do not lead to the next group.
//!
//! # On a server
//!
//! Endpoints are for clients. A handler may call them like any other client. The stack of its
//! server does not classify these calls.
//!
//! # Telemetry
//!
//! | event | level |
//! |---|---|
//! | "endpoint out", with its address and the reason | `WARN` |
//! | "endpoint back", with its address and the reason | `INFO` |
//! | "no endpoint usable", when the last one went out, unless all are drained | `ERROR` |
//! | "call rejected", for each rejection | `WARN` |
//!
//! The span of an [attempt](crate::telemetry) has the address, as
//! [`server.address`](crate::telemetry::field::SERVER_ADDRESS). Without a retry, the span of the
//! call has it. A span of your own does not get it.
//!
//! The end of an ejection is noticed by the next call or the next reading of the states, so its
//! event may be delayed. [Registered](Endpoints::register) endpoints show how many there are in
//! each state, and their calls. The numbers of each endpoint are only in its
//! [state](EndpointState). An address as a label would make a new series for each instance.

mod address;
mod builder;
mod check;
mod check_rate;
mod checks;
mod config;
mod endpoint;
pub mod future;
mod handle;
mod health;
mod layer_state;
mod list;
mod load;
mod member;
mod service;
mod shared;
mod slot;
mod streak;
mod watch;

pub use self::{
    address::Address,
    builder::EndpointsBuilder,
    check::{Check, CheckFn, check_fn},
    handle::{EndpointState, EndpointsHandle},
    health::EndpointStatus,
    service::Endpoints,
};
