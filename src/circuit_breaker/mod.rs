//! Circuit breakers, which stop calls to a failing dependency until it recovers.
//!
//! Put one around each dependency that can fail completely. While the dependency is down, callers
//! get an error at once, and their retries do not keep it down. A breaker is not meant for one bad
//! request among many. It does not replace a [timeout](crate::timeout), because a call that hangs
//! counts as a failure only when it ends.
//!
//! ```
//! use buttress::{CarryRejection, Error, circuit_breaker::CircuitBreakerLayer};
//! use std::io;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let is_down = service_fn(|_: ()| async {
//!     Err::<(), _>(io::Error::from(io::ErrorKind::ConnectionRefused))
//! });
//! let service = ServiceBuilder::new()
//!     .layer(CircuitBreakerLayer::new())
//!     .map_err(Error::Service) // `Error` holds the service's error or a rejection.
//!     .service(is_down);
//!
//! for _ in 0..20 {
//!     let _ = service.clone().oneshot(()).await;
//! }
//! // At least half of twenty calls within ten seconds failed. The next call is rejected.
//! let error = service.oneshot(()).await.unwrap_err();
//! assert_eq!(error.rejection().map(|rejection| rejection.kind()), Some("circuit_open"));
//! # }
//! ```
//!
//! With other settings, and a handle for inspecting and controlling the breaker:
//!
//! ```
//! use buttress::circuit_breaker::{CircuitBreakerLayer, State};
//! use std::time::Duration;
//!
//! let breaker = CircuitBreakerLayer::builder()
//!     .name("payments")
//!     .count_window(50)
//!     .minimum_calls(10)
//!     .failure_rate(0.3)
//!     .slow_calls(Duration::from_secs(1), 0.8)
//!     .consecutive_failures(5)
//!     .open_for(Duration::from_secs(10))
//!     .build()?;
//!
//! let handle = breaker.handle();
//! handle.force_open_for(Duration::from_secs(600));
//! assert_eq!(handle.state(), State::ForcedOpen);
//! handle.reset();
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! With a separate breaker for each host, tenant or route, in bounded memory:
//!
//! ```
//! use buttress::circuit_breaker::CircuitBreakerLayer;
//!
//! struct Request {
//!     host: String,
//! }
//!
//! let breakers = CircuitBreakerLayer::builder()
//!     .keyed_fn(|request: &Request| request.host.clone())
//!     .max_keys(1_000)
//!     .build()?;
//! # let _ = breakers;
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! # States
//!
//! - *Closed*: calls are admitted, and the most recent ones are counted. The breaker opens when
//!   too large a share of them failed or was slow, or when too many consecutive calls failed.
//! - *Open*: calls are rejected until the open time has elapsed. Then the breaker is half-open.
//!   The open time grows with repeated trips.
//! - *Half-open*: a few calls are admitted as probes, never more at a time than configured,
//!   regardless of the number of clones. If enough of them succeed, the breaker closes with an
//!   empty window. If too many fail, it opens again.
//!
//! A probe has a lease, which ends after a fixed time. A probe ends as follows:
//!
//! | the probe | outcome |
//! |---|---|
//! | has a result | as the classifier says; if it is ignored, the slot is free again |
//! | [is given back](#requests-that-are-given-back) | failed in silence, else a free slot |
//! | had a successful head, and its reader leaves, or the lease ends first | passed, for gRPC too |
//! | had a successful head, and its body fails, or exceeds a limit of its own or the stack | failed |
//! | has no response when the lease ends, or the service is not ready by then | failed |
//! | is cut before a response | failed if it [counts](#calls-that-are-cut), else a free slot |
//! | is not called, although the service is ready | the slot is free again |
//! | panics | failed |
//!
//! A response is heard at its head. A breaker in front of streams whose readers all leave could
//! otherwise never close. Callers in a hurry take probe slots too. A breaker stays half-open while
//! all callers leave before a response could arrive. A few that wait for their response end this,
//! but if callers in a hurry far outnumber them, they are mostly rejected, and it can take minutes.
//! It also stays half-open while requests are given back with longer pauses in between than the
//! [silence](#calls-that-are-cut).
//!
//! A result that arrives after the end of its lease is ignored. A result from before a change of
//! state is ignored too. A breaker needs no background task, because the next call that asks to
//! be admitted checks the times.
//!
//! # Readiness
//!
//! The breaker decides before it polls the service. To reject a call, it reports `Ready`, does not
//! poll the service and then fails the call.
//!
//! An admission is checked again in `call`. If the breaker has opened since, the call is rejected,
//! and the inner service stays ready for the next call of this instance. A rejection is not
//! checked again. It applies to the next call, even if the breaker has closed since. Therefore an
//! outdated state may reject one call, but it never admits one.
//!
//! With [`pend`](CircuitBreakerBuilder::pend) an open breaker reports `Pending` instead, and wakes
//! the waiting callers when a call may be admitted. If it opens after it has reported `Ready`, the
//! next poll reports `Pending`. In tower, a caller may rely on readiness until it calls, and this
//! takes readiness back. The reason is a balancer, which keeps ready endpoints. It polls one once
//! more before it calls, and then picks another endpoint. Otherwise it would be rejected by the
//! endpoint that it should avoid. The inner service stays ready in that instance, with everything
//! that it reserved.
//!
//! A breaker [by key](CircuitBreakerBuilder::keyed_fn) is always ready.
//!
//! # Clone
//!
//! The state belongs to the layer. Every service that it creates, and every clone, shares it. A
//! clone starts without an admission.
//!
//! # Cancellation
//!
//! - A call that is dropped, or that a deadline of its caller ends, [is cut](#calls-that-are-cut).
//! - A timeout that the service itself reports close to the caller's deadline is treated the same
//!   way. A service that knows the deadline responds a little before it. Close means within the
//!   last quarter of the caller's time, but at least 5 ms and at most 500 ms.
//! - A call that is ended by a timeout of another crate beneath, such as tower's, is cut as well.
//! - A panic counts as a failure, however short the run was.
//! - A reader that drops the body of a response says nothing. The response was heard at its head.
//!   Once the breaker has seen a failure, it counts as a success, as a body that ends does. A few
//!   failures would otherwise be a large share where most readers leave.
//! - A probe that is cut releases its slot, and short runs do not add up.
//!
//! # Calls that are cut
//!
//! A dependency of which nobody has a response must open the breaker, even if no caller waits for
//! long. Callers in a hurry must not open the breaker of a healthy dependency. Therefore a call
//! that was cut from outside is a failure only if both are true:
//!
//! - The call ran *long*: at least four mean deviations longer than responses take on average to
//!   their head, and at least a quarter longer. Both averages follow the latest responses, each
//!   with a weight of a sixteenth. Only responses that had to be waited for are measured, and one
//!   that took very long counts for less. Before the first response, long is the *floor*: the
//!   smaller of the attempt timeout and the total timeout of the [`Stack`](crate::Stack), or 2 s
//!   without either.
//! - There is *silence*: for the length of the window, calls that ran long were cut, and nobody had
//!   a response. The silence begins with the first of these cuts after the last response. If no
//!   call runs for the length of the window, it begins anew, because a time without calls says
//!   nothing. For this rule, a window of calls has a length of 10 s, and a window of time has one
//!   of 1 s to 10 s. With a longer silence, a breaker over minutes would not see a hang for
//!   minutes. A shorter one is normal for a service with few calls.
//!
//! A call that ran for the attempt timeout or the total timeout of its own stack is a failure at
//! once, and so is one that ran for [`abandoned_after`](CircuitBreakerBuilder::abandoned_after). If
//! the total timeout itself ends the call, and is not longer than the attempt timeout, a part of it
//! is enough: a long run, but at least half of it and at most 15/16. The rest may have passed in a
//! wait for readiness, in a queue and in earlier attempts. The limit of a server's layer counts as
//! a timeout of its stack. The breaker does not know a limit that depends on the request, or one
//! that ends a call in another task, such as behind tower's `Buffer`. A probe that is cut has
//! failed if it ran long and at least for the floor, or if it counts at once.
//!
//! The breaker does not see
//!
//! - a dependency that hangs for some calls, if only callers in a hurry meet it, because others
//!   still have responses;
//! - a dependency that sends the head of a response and then hangs, if many of its readers leave.
//!   Their responses were heard, and count among all others. A body that exceeds `body_idle`, or
//!   with `body_deadline` or gRPC the timeouts of the stack, is a failure;
//! - a hang whose callers all leave before a call is long. If responses take very different times,
//!   that is well above the slowest of them;
//! - a hang since the start whose callers all leave sooner than the floor;
//! - a dependency that never becomes ready, because it is not called. A breaker by key and a probe
//!   wait for readiness within the call, and see it;
//! - a hang with fewer calls than [`minimum_calls`](CircuitBreakerBuilder::minimum_calls) in the
//!   window and in a row than [`consecutive_failures`](CircuitBreakerBuilder::consecutive_failures)
//!   if that is set, or with pauses between the calls that are as long as the silence.
//!
//! The time to the head of a response includes the upload of the request's body. After long
//! uploads, a hang of short calls is seen only through callers who wait as long.
//!
//! It takes one thing for a hang that is none: callers in a hurry are the only ones for the length
//! of the window, they call a slow route, and fast responses came before. An attempt timeout that
//! is shorter than the time of the callers makes the breaker independent of them.
//!
//! # Endpoints
//!
//! Beneath a stack, a failure of one of several [endpoints](crate::endpoints) is ignored if others
//! get the calls to come: if that endpoint is out already, or if another group takes the calls once
//! it is. The dependency can still be called.
//!
//! # Requests that are given back
//!
//! A client may give a request back because none of it was processed. Its connection ended before
//! the request was written, or the server refused the stream or excluded it by a GOAWAY. The
//! classifier says so by [`Outcome::Ignored`](crate::Outcome::Ignored) with the hint
//! [`Unsent`](crate::RetryHint::Unsent) or [`Unprocessed`](crate::RetryHint::Unprocessed).
//!
//! This is nobody's failure while others have responses, as in a graceful restart. A dependency
//! that gives back each request is down. Therefore such a result is treated like a call that ran
//! long and was cut. It counts as a failure only in [silence](#calls-that-are-cut), which it also
//! begins. It does so whatever [`abandoned_after`](CircuitBreakerBuilder::abandoned_after) says,
//! because its caller has not cut it. A probe that is given back releases its slot, and has failed
//! once the silence has lasted.
//!
//! # Errors
//!
//! A rejected call fails with [`CircuitOpen`](crate::error::CircuitOpen), which has the time until
//! the next probe if it is known. Errors of the service, including errors of its readiness, are
//! counted and passed through. The classifier decides which results are failures. A response that
//! says that the request is wrong, or still in progress, counts like a success, because the
//! dependency responds. A timeout of a layer beneath is a failure. Other rejections of layers
//! beneath, and results that are ignored, are not counted. Requests that are
//! [given back](#requests-that-are-given-back) are counted only in silence.
//!
//! # Order
//!
//! Put it inside [retry](crate::retry) and [bulkhead](crate::bulkhead), and outside the
//! [timeout](crate::timeout) of each attempt. It then sees every attempt, and counts attempts
//! that timed out as failures.
//!
//! # A breaker or a retry budget?
//!
//! Use both. The [budget](crate::budget::Budget) bounds the load that retries add while a part of
//! the calls fails. The breaker stops all calls when the dependency is down. A retry does not
//! retry a rejection by the breaker.
//!
//! # Telemetry
//!
//! | event | level |
//! |---|---|
//! | "circuit opened" | `ERROR` |
//! | "circuit half-open" | `WARN` |
//! | "circuit closed" | `INFO` |
//! | "circuit disabled" | `DEBUG` |
//! | "call rejected", for each rejection | `WARN` |
//!
//! The event "circuit closed" tells of the whole outage, from the first trip until the breaker
//! closed. Its field `rejected` is the number of rejected calls, and `open_ms` is the time.
//!
//! With a [`describe_fn`](KeyedCircuitBreakerBuilder::describe_fn), the events of a breaker by key
//! have the field `circuit_breaker.key`.
//!
//! A [registered](CircuitBreakerLayer::register) breaker shows its state, its window, its changes
//! of state and the results of its probes. [`Registry::ready`](crate::telemetry::Registry::ready)
//! names a breaker that is open, unless it would admit a probe now.
//!
//! A breaker by key shows the number of keys in each state, and the worst state of all. A key is
//! never the value of an attribute. It is never named as not ready, because a key that is down says
//! nothing about the others. [`Registry::control`](crate::telemetry::Registry::control) does not
//! change it, because a later key would not have the change. Use the handle of a key, or
//! [`for_each`](KeyedCircuitBreakerLayer::for_each).
//!
//! [`CircuitBreakerHandle::watch`] reports the changes of state to the program.

mod admission;
mod breaker;
mod change;
mod cold;
mod config;
pub(crate) mod describe;
mod effects;
pub mod future;
mod half_open;
mod handle;
mod key_counts;
mod keyed;
mod layer;
mod layer_state;
mod observe;
mod overloads;
mod service;
mod shared;
mod state;
mod waiting;
mod window;

pub use self::{
    handle::{CircuitBreakerHandle, Snapshot, Watch},
    keyed::{KeyedCircuitBreaker, KeyedCircuitBreakerBuilder, KeyedCircuitBreakerLayer},
    layer::{CircuitBreakerBuilder, CircuitBreakerLayer},
    service::CircuitBreaker,
    state::{State, TripReason},
};

#[cfg(test)]
mod tests;
