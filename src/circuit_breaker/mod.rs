//! Keeps calls from a dependency that fails, and lets it recover.
//!
//! Put one around each dependency that can fail as a whole: while it is down, callers have their
//! answer at once, and it is not kept down by their retries. It is not for one bad request among
//! many, and not in place of a [timeout](crate::timeout): a call that never ends fails late.
//!
//! ```
//! use buttress::{CarryRejection, Error, circuit_breaker::CircuitBreakerLayer};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let service = ServiceBuilder::new()
//!     .layer(CircuitBreakerLayer::new())
//!     .service(service_fn(|_: ()| async { Err::<(), _>(Error::Service("it is down")) }));
//!
//! for _ in 0..20 {
//!     let _ = service.clone().oneshot(()).await;
//! }
//! // Twenty calls in ten seconds, and at least half of them failed: the next is refused.
//! let error = service.oneshot(()).await.unwrap_err();
//! assert_eq!(error.rejection().map(|rejection| rejection.kind()), Some("circuit_open"));
//! # }
//! ```
//!
//! With other settings, and a handle to see and turn it:
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
//! handle.force_open();
//! assert_eq!(handle.state(), State::ForcedOpen);
//! handle.reset();
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! And one for each host, tenant or route, in bounded memory:
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
//! *Closed*, calls go through, and the last ones are counted. The breaker trips when too large a share
//! of them failed or was slow, or too many failed in a row. *Open*, it refuses, for a time that grows
//! with repeated trips. Then it is *half-open* and lets a few probes through, no more than configured
//! whatever the number of clones. If enough of them succeed it closes, with an empty window; if not,
//! it opens again.
//!
//! A probe holds a lease. If it is not answered in time, or the service does not become ready for it,
//! it has failed; a response that began well and only goes on for longer has passed. If nobody calls
//! although the service is ready, its slot goes to another. What a probe says after its lease is
//! ignored, and so is every result from before a trip. It takes no task: whoever asks next looks.
//!
//! # Readiness
//!
//! The breaker decides before it asks the service. When it refuses it reports `Ready`, leaves the
//! service alone, and fails the call. `call` confirms a decision that was made while the breaker was
//! closed: if it has opened since, the call is refused, and the service that was ready stays so in this
//! instance for its next call. A refusal stands until it is spent, so one call may be refused on stale
//! news; none goes through on it.
//!
//! With [`pend`](CircuitBreakerBuilder::pend) it is not ready instead, and wakes who waits when a
//! call may go through. Asked again, it takes back readiness that it gave before it opened: tower
//! lets a caller rely on readiness until it calls, but a balancer that keeps ready endpoints asks
//! once more, and would else be refused by the very endpoint that it means to avoid. The service
//! that was ready stays so in that instance, with whatever it reserved. A breaker [by
//! key](CircuitBreakerBuilder::keyed_fn) is always ready.
//!
//! # Clone
//!
//! The state belongs to the layer: every service that it makes, and every clone, shares it. A clone
//! begins undecided.
//!
//! # Cancellation
//!
//! A call that is dropped counts as a failure if it had run for
//! [`abandoned_after`](CircuitBreakerBuilder::abandoned_after), else not at all: callers in a hurry
//! cannot open a breaker that others share. The same holds for a time-out that the service reports when
//! no more than a quarter of its caller's time is left, and no more than half a second: it was told when
//! the deadline is, and keeps a little of it to answer in. A panic always counts. A probe that is dropped gives its
//! slot back; the time that probes were given without an answer adds up, and a lease's worth of it is
//! a failed probe.
//!
//! # Errors
//!
//! [`CircuitOpen`](crate::error::CircuitOpen), with the time until the next probe. An error of the service, of
//! its readiness too, passes through and is counted.
//!
//! # Order
//!
//! Inside [retry](crate::retry) and [bulkhead](crate::bulkhead), outside the attempt's
//! [timeout](crate::timeout): it then sees every attempt, and sees those that took too long as
//! failures.
//!
//! # A breaker or a retry budget?
//!
//! Both. The [budget](crate::budget::Budget) bounds what retries add while a dependency is half well;
//! the breaker takes away the calls themselves once it is not. The retry does not retry a refusal of
//! the breaker.
//!
//! # Telemetry
//!
//! Opened is an `ERROR` event, half-open `WARN`, closed `INFO`, each refusal `WARN`. See
//! [`CircuitBreakerHandle::watch`] for the same in the program.

mod admission;
mod breaker;
mod change;
mod cold;
mod config;
pub(crate) mod describe;
mod effects;
mod events;
pub mod future;
mod half_open;
mod handle;
mod keyed;
mod layer;
mod observe;
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
