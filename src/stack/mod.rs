//! Puts the layers together in the one right order.
//!
//! Use it around every client of a remote service. Slots may be filled in any order; the layers nest
//! as they must. A slot that is not filled costs nothing. Where the order must be another, put the
//! layers together by hand.
//!
//! ```
//! use buttress::{Stack, retry::ReplayClones};
//! use tower::{ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), buttress::Error<std::io::Error>> {
//! let client = service_fn(|path: String| async move { Ok::<_, std::io::Error>(path.len()) });
//! let client = Stack::standard(ReplayClones).service(client);
//!
//! assert_eq!(client.oneshot("/orders".to_owned()).await?, 7);
//! # Ok(())
//! # }
//! ```
//!
//! From optional settings. An `Option` gives the stack one type, whatever the settings are:
//!
//! ```
//! use buttress::{
//!     Stack,
//!     bulkhead::BulkheadLayer,
//!     circuit_breaker::CircuitBreakerLayer,
//!     retry::{ReplayClones, RetryLayer},
//! };
//! use std::time::Duration;
//!
//! struct Settings {
//!     total: Option<Duration>,
//!     retries: Option<u32>,
//!     breaker: bool,
//!     max_concurrent: Option<u32>,
//! }
//!
//! # let settings = Settings { total: None, retries: Some(2), breaker: true, max_concurrent: None };
//! let retry = |retries| RetryLayer::builder(ReplayClones).retries(retries).build();
//! let bulkhead = |limit| BulkheadLayer::builder().max_concurrent(limit).build();
//! let stack = Stack::new()
//!     .total_timeout(settings.total)
//!     .retry(settings.retries.map(retry).transpose()?)
//!     .bulkhead(settings.max_concurrent.map(bulkhead).transpose()?)
//!     .circuit_breaker(settings.breaker.then(CircuitBreakerLayer::new));
//! # let _ = stack;
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! In a struct, the service has a short type in tower's `BoxCloneSyncService`; [`ServiceOf`] and
//! [`http::HttpStackService`](crate::http::HttpStackService) name it without a box.
//!
//! With a breaker and a bulkhead of your own, and one classifier for all layers:
//!
//! ```
//! use buttress::{
//!     Fault, Outcome, Stack,
//!     bulkhead::BulkheadLayer,
//!     circuit_breaker::CircuitBreakerLayer,
//!     retry::{RetryLayer, replay_fn},
//! };
//! use std::time::Duration;
//! use tower::service_fn;
//!
//! let breaker = CircuitBreakerLayer::builder().name("orders").build()?;
//! let operator = breaker.handle();
//! let client = service_fn(|path: &'static str| async move { Ok::<_, std::io::Error>(path.len()) });
//!
//! let client = Stack::new()
//!     .total_timeout(Duration::from_secs(3))
//!     .retry(RetryLayer::new(replay_fn(|path: &&'static str| Some(*path))))
//!     .circuit_breaker(breaker)
//!     .bulkhead(BulkheadLayer::builder().max_concurrent(64).build()?)
//!     .attempt_timeout(Duration::from_secs(1))
//!     .classify_fn(|result: Result<&usize, &_>| match result {
//!         Ok(length) if *length > 0 => Outcome::Success,
//!         _ => Outcome::Failure(Fault::Transient),
//!     })
//!     .service(client);
//! # let _ = (client, operator);
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! # Order
//!
//! Outermost first, and why each stands where it stands:
//!
//! ```text
//! call span         one span for what the caller calls one call
//! around_call       a layer of your own around all that is beneath
//! total timeout     bounds everything beneath, pauses and queues included
//! retry             each attempt passes all that is beneath, and sleeps holding none of it
//! bulkhead          time in its queue is not held against the dependency
//! circuit breaker   asked after the queue: a trip empties the queue at once
//! attempt timeout   what it ends counts as a failure of the dependency
//! around_attempt    a layer of your own around each attempt, such as one that signs requests
//! http              with `http()`: headers of the hop, with the time that this attempt has left
//! service
//! ```
//!
//! # Readiness
//!
//! A stack with a total timeout is always ready, and waits in its future. So a balancer above it cannot
//! see that a breaker in it is open or a bulkhead full: there, put the total timeout and the retry above
//! the balancer, and give each endpoint a stack of the others.
//!
//! # Clone
//!
//! The service is `Clone` when the one that it wraps is. What the layers count is shared by all clones,
//! and by all services made from clones of the same layers.
//!
//! # Cancellation
//!
//! Dropping the future drops what is under way, and every layer gives back what it held.
//!
//! # Errors
//!
//! Three ways in. [`Stack::service`] makes the error [`Error<E>`](crate::Error). [`Stack::boxed`]
//! makes it a [`BoxError`](crate::BoxError). As a [`Layer`](tower_layer::Layer) the stack leaves the
//! error alone, which must then be able to carry a rejection. Under `tower::ServiceBuilder`,
//! `map_err` next to the service makes it one:
//!
//! ```
//! use buttress::{Stack, retry::ReplayClones};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), buttress::Error<std::io::Error>> {
//! let client = service_fn(|path: String| async move { Ok::<_, std::io::Error>(path.len()) });
//! let client = ServiceBuilder::new()
//!     .layer(Stack::standard(ReplayClones))
//!     .map_err(buttress::Error::Service)
//!     .service(client);
//!
//! assert_eq!(client.oneshot("/orders".to_owned()).await?, 7);
//! # Ok(())
//! # }
//! ```
//!
//! # Telemetry
//!
//! A span for each call around all that the layers emit.
//!
//! # When a call has ended
//!
//! With its response; with [`http`](Stack::http), with the end of the body of its response.

mod builder;
mod convert_error;
mod explain;
mod facts;
mod fits;
mod layer;
mod open;
mod optional;
mod slot;
mod table;
mod transport;
mod warnings;

pub use self::{
    builder::{BoxedServiceOf, ServiceOf, Stack, StandardStack},
    explain::Explanation,
};
pub use crate::describe::Warning;

/// The types and traits behind the setters of a [`Stack`]. There is no need to name them: they stand in
/// its signatures and in what the compiler says.
pub mod slots {
    #[cfg(feature = "http")]
    pub use super::transport::ServerTransport;
    pub use super::{
        convert_error::{
            CloneableClient, ConvertError, ConvertErrorFuture,
            InAStackAlreadyUseLayerInsteadOfService, NotInAStack, PlainError,
        },
        fits::{FitsInto, GoesAround, KeepsTypes, Takes, Unchanged, Undecided},
        open::Open,
        optional::{Around, KeepsTypesOfInner, Optional, OptionalFuture},
        slot::{BulkheadSlot, CircuitBreakerSlot, Empty, IntoTimeout, RetrySlot, Slot},
        table::{Fill, Filled, SlotAt, Slots, StandardSlots, Wrap, position},
        transport::{Transport, WithTransport},
    };
    pub use crate::describe::{Describe, Facts};
}
