//! A stack of layers in the correct order.
//!
//! Use a stack around every client of a remote service. The setters can be called in any order,
//! and the layers still nest correctly. A layer that is not set costs nothing. If you need
//! another order, compose the layers by hand.
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
//! If settings decide at run time which layers to use, pass an `Option` of a layer. The type of the
//! stack is then always the same:
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
//! # let settings =
//! #     Settings { total: None, retries: Some(2), breaker: true, max_concurrent: None };
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
//! To store the service in a struct, wrap it in tower's `BoxCloneSyncService`, which has a short
//! type. Without a box, name the type with [`ServiceOf`] or
//! [`http::HttpStackService`](crate::http::HttpStackService). For a gRPC client, both name another
//! type than the one that you need. See
//! [the recipe](crate::guide::frameworks#how-do-i-use-a-stack-with-a-tonic-client).
//!
//! A stack with its own breaker and bulkhead, and one classifier for all layers:
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
//! let handle = breaker.handle();
//! let client = service_fn(|path: &'static str| async move {
//!     Ok::<_, std::io::Error>(path.len())
//! });
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
//! # let _ = (client, handle);
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! # Order
//!
//! The layers from the outermost to the innermost, each with its purpose or the reason for its
//! place:
//!
//! ```text
//! call span         one span for each call of the stack
//! around_call       a layer of your own around all layers beneath
//! fallback          the last layer that responds, even after the total timeout
//! cache             a kept response needs nothing beneath, and a call that times out can still get
//!                   an older one
//! total timeout     bounds everything beneath, with the pauses and the wait in a queue, but an
//!                   HTTP call only to the head of its response
//! retry             each attempt passes all layers beneath, and a pause occupies no slot
//! bulkhead          above the breaker, because time in the queue is not time of the dependency
//! circuit breaker   beneath the queue, because a breaker that opens then empties the queue at once
//! attempt timeout   beneath the breaker, because a timeout then counts as a failure
//! around_attempt    a layer of your own around each attempt, such as one that signs requests
//! http              writes the hop's headers, with the time left for the attempt
//! service           a client, or several of them as `Endpoints`, each in a chaos layer if faults
//!                   may be injected
//! ```
//!
//! [Endpoints](crate::endpoints) have no slot. They are the service that the stack is put around,
//! by `stack.layer(endpoints)`.
//!
//! # Readiness
//!
//! A stack with a total timeout is always ready, and its calls wait in their futures. Therefore a
//! balancer above it cannot see an open breaker or a full bulkhead in the stack. Under a balancer,
//! give each endpoint a stack without the total timeout and the retry, and put these two layers
//! above the balancer.
//!
//! # Clone
//!
//! The service is `Clone` if the wrapped service is. All its clones share the state of the layers,
//! such as the slots of the bulkhead. So do all services that clones of the same layers create. A
//! clone of a [`Stack`] shares the state too: put around two upstreams, it is one breaker, one
//! bulkhead and one retry budget for both. [`Stack::fresh`] copies only the settings.
//!
//! # A stack for each key
//!
//! [`Stack::by_key`] makes a separate stack for each host, tenant or shard. Then a host that is
//! down or hangs takes no retry, slot or breaker from the others. With a
//! [breaker by key](crate::circuit_breaker::CircuitBreakerBuilder::keyed_fn) in one stack, the keys
//! share slots and retries, and each key takes about a sixth of the memory.
//!
//! # Cancellation
//!
//! Dropping the future drops the calls in flight. Every layer releases its slots and admissions.
//!
//! # Errors
//!
//! There are three ways to put a stack around a service:
//!
//! - With [`Stack::service`], the error is [`Error<E>`](crate::Error).
//! - With [`Stack::boxed`], the error is a [`BoxError`](crate::BoxError).
//! - As a [`Layer`](tower_layer::Layer), the stack does not change the error type, which must
//!   implement [`CarryRejection`](crate::CarryRejection). Under `tower::ServiceBuilder`, add
//!   `map_err` next to the service:
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
//! The stack opens a span for each call, with the outcome by the classifier of the stack. The spans
//! and events of all layers are inside it, with two exceptions. The transitions of a breaker are in
//! no span. The reader of a body emits "call timed out" of the kind `idle_response_body` or
//! `response_body`. See [`telemetry`](crate::telemetry#traces).
//!
//! # End of a call
//!
//! A call ends with its response. With [`http`](Stack::http) it ends at the end of the response
//! body. Until then the call occupies its slot in the bulkhead, and its span stays open unless its
//! head is a failure. The timeouts of an HTTP call end earlier, with the head of the response,
//! unless the stack has an HTTP layer with `body_deadline`. For gRPC they cover the body.

mod access;
mod builder;
mod by_key;
mod convert_error;
mod explain;
mod facts;
mod fits;
mod fresh;
mod handles;
mod layer;
mod name;
mod open;
mod optional;
mod slot;
mod table;
mod transport;
mod untimed;
mod warnings;

pub use self::{
    builder::{BoxedServiceOf, ServiceOf, Stack, StandardStack},
    by_key::{KeyedStack, KeyedStackBuilder},
    explain::Explanation,
};
pub use crate::describe::Warning;

/// The types and traits behind the setters of a [`Stack`].
///
/// You do not have to name them. They appear in the signatures of the setters and in compiler
/// messages.
pub mod slots {
    #[cfg(feature = "http")]
    pub use super::transport::ServerTransport;
    pub use super::{
        by_key::{KeyedStackFuture, KeyedStackService},
        convert_error::{
            CloneableClient, ConvertError, ConvertErrorFuture,
            InAStackAlreadyUseLayerInsteadOfService, NotInAStack, PlainError,
        },
        fits::{FitsInto, GoesAround, KeepsTypes, Takes, Unchanged, Undecided},
        fresh::Fresh,
        handles::Handles,
        open::Open,
        optional::{Around, KeepsTypesOfInner, Optional, OptionalFuture},
        slot::{
            BulkheadSlot, CacheSlot, CircuitBreakerSlot, Empty, FallbackSlot, IntoTimeout,
            RetrySlot, Slot, Within,
        },
        table::{Fill, Filled, SlotAt, Slots, StandardSlots, Wrap, position},
        transport::{Transport, WithTransport},
        untimed::Untimed,
    };
    pub use crate::describe::{Describe, Facts};
}
