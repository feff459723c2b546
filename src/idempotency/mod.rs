//! Runs each operation once and replays its recorded response to duplicate requests.
//!
//! Use it in front of a handler whose effect must not happen twice, such as a payment, and whose
//! callers retry. A handler that only reads, or whose effect is safe to repeat, does not need it.
//!
//! ```
//! use buttress::{Error, idempotency::{IdempotencyLayer, Key, RequestKey, store::MemoryStore}};
//! use std::io;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A key and an amount. Two requests with the same key must have the same amount.
//! type Payment = (&'static str, u64);
//!
//! let layer = IdempotencyLayer::builder_fn(
//!     MemoryStore::new(),
//!     |payment: &Payment| Ok(RequestKey::Key(Key::new(payment.0)?)),
//!     |payment: &Payment, request| request.part(payment.1.to_be_bytes()),
//! )
//! .single_tenant()
//! .build()?;
//!
//! let service = ServiceBuilder::new()
//!     .layer(&layer)
//!     .map_err(Error::Service)
//!     .service(service_fn(|payment: Payment| async move {
//!         Ok::<_, io::Error>(format!("charged {}", payment.1))
//!     }));
//! assert_eq!(service.clone().oneshot(("k1", 42)).await?, "charged 42");
//! assert_eq!(service.oneshot(("k1", 42)).await?, "charged 42");
//!
//! let counts = layer.handle().counts();
//! assert_eq!((counts.claims, counts.replays), (1, 1));
//! # Ok(())
//! # }
//! ```
//!
//! In front of an HTTP handler, with your own settings:
//!
#![cfg_attr(feature = "http", doc = "```")]
#![cfg_attr(not(feature = "http"), doc = "```ignore")]
//! use buttress::{
//!     Stack,
//!     bulkhead::BulkheadLayer,
//!     http::{BufferedBody, HttpServerLayer},
//!     idempotency::{IdempotencyLayer, store::MemoryStore},
//! };
//! use http::{Request, Response};
//! use std::{convert::Infallible, time::Duration};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Inserted into the request's extensions by the authentication layer.
//! #[derive(Clone)]
//! struct Account(String);
//!
//! let layer = IdempotencyLayer::http(MemoryStore::new())
//!     .scope_fn(|request: &Request<String>| {
//!         request.extensions().get::<Account>().map(|account| account.0.clone())
//!     })
//!     .wait_for_duplicates(Duration::from_secs(10))
//!     .ttl(Duration::from_secs(48 * 60 * 60))
//!     .build()?;
//! let handle = layer.handle();
//! let stack = Stack::new().bulkhead(BulkheadLayer::new());
//!
//! let service = ServiceBuilder::new()
//!     .layer(HttpServerLayer::builder(stack).outside(layer).build()?)
//!     .service(service_fn(|_: Request<BufferedBody<String>>| async {
//!         Ok::<_, Infallible>(Response::new("paid".to_owned()))
//!     }));
//! for _ in 0..2 {
//!     let mut request = Request::post("/payments").header("idempotency-key", "k1");
//!     let extensions = request.extensions_mut().unwrap();
//!     extensions.insert(Account("alice".to_owned()));
//!     let request = request.body("42".to_owned())?;
//!     assert_eq!(service.clone().oneshot(request).await?.status(), 200);
//! }
//! assert_eq!((handle.counts().claims, handle.counts().replays), (1, 1));
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//!
//! An operation is identified by its key and its scope, and over HTTP also by its method and
//! route. While its record is kept, its effect happens at most once, unless you choose to
//! [run unknown operations again](#unknown-operations). If the layer cannot tell whether the
//! effect happened, the outcome is *unknown*. The caller of a service that failed gets its error.
//! Every later request with the key is told that the outcome is unknown.
//!
//! Exactly once is impossible for an effect in another system, because a process can die between
//! the effect and its record. It is possible only where the service commits the effect and the
//! record in one transaction ([`transactional`](IdempotencyBuilder::transactional)).
//!
//! | the request | the caller gets |
//! |---|---|
//! | is new | the response of the service, once it is recorded; or unrecorded if the store fails until the lease ends, and the outcome is then unknown |
//! | repeats a completed request | the recorded response |
//! | repeats a request in flight | [`InFlight`](crate::error::IdempotencyReason::InFlight), with a [`retry_after`](IdempotencyBuilder::retry_after); or it [waits](IdempotencyBuilder::wait_for_duplicates) for the result |
//! | repeats a completed request whose response could not be kept | [`NotReplayable`](crate::error::IdempotencyReason::NotReplayable) |
//! | differs from the request that used its key | [`Mismatch`](crate::error::IdempotencyReason::Mismatch) |
//! | repeats a request whose outcome is unknown | [`Unknown`](crate::error::IdempotencyReason::Unknown), without a `retry_after` |
//! | must have a key and has none | [`KeyMissing`](crate::error::IdempotencyReason::KeyMissing) |
//! | has an invalid key | [`KeyMalformed`](crate::error::IdempotencyReason::KeyMalformed) |
//! | has no scope | [`ScopeMissing`](crate::error::IdempotencyReason::ScopeMissing) |
//! | finds the store down | [`StoreUnavailable`](crate::error::IdempotencyReason::StoreUnavailable) |
//! | finds no room for another record or run | [`Full`](crate::error::IdempotencyReason::Full) |
//!
//! The end of a run decides the state of its record:
//!
//! | the service | the record |
//! |---|---|
//! | returns any response, even an error response | completed: the response is replayed |
//! | returns a response marked `NotStarted`, or selected by `not_started` (HTTP) | released: the key is free |
//! | is not called, because it is not ready or a layer beneath rejects the call (circuit open, bulkhead full, rate limited, deadline exceeded) | released, unless a retry beneath had already sent the request |
//! | fails, panics, is dropped, or exceeds a limit | unknown; with [`transactional`](IdempotencyBuilder::transactional), released |
//!
//! The layer trusts the [`nothing_began`](crate::Rejection::nothing_began) of a rejection from
//! beneath. A service may have had an effect before it calls another service. It must therefore
//! not return the rejection of that call as its own error. Turn the rejection into a response, or
//! into another error.
//!
//! # Leases and fences
//!
//! A claim gives its owner a lease, measured by the clock of the store. During the run, the lease
//! is renewed each time a third of it has passed. The same round trip renews every other lease
//! that is due within the next twelfth of a lease. With the default lease of 30 s, the lease of a
//! run that ends within 7.5 s is never renewed.
//!
//! If a process dies, its keys stay blocked until their leases end. The outcome of their
//! operations is then unknown.
//!
//! A process that was only paused does not know that its lease has ended when it resumes. The
//! store rejects its late writes by their *fence*, a number that grows with each claim of a key.
//! Pass the fence ([`Run::fence`]) to every system that can reject writes with a smaller one.
//!
//! With [`reserve_first`](IdempotencyBuilder::reserve_first), a process that dies before the
//! effect begins leaves nothing behind. This costs a third round trip to the store for each run.
//!
//! # Unknown operations
//!
//! By default, the layer does not run an unknown operation again. An operator finds it with
//! [`IdempotencyHandle::unknown`], and records its real outcome with
//! [`IdempotencyHandle::resolve`]. A record that nobody resolves is removed after the
//! [`unknown_retention`](IdempotencyBuilder::unknown_retention). Its key is then new, and a late
//! retry runs the operation again.
//!
//! A record contains neither the caller nor the request. To find the record of an effect, log
//! [`Run::storage_key`] with the effect. You can also compute the storage key of a customer's key
//! with [`StorageKey::of`]. Over HTTP, it covers the scope, the method, the route and the key.
//!
//! A builder can set another policy:
//!
//! - [`reconcile_fn`](IdempotencyBuilder::reconcile_fn) asks a function for the outcome.
//! - [`rerun`](IdempotencyBuilder::rerun) runs the operation again. Use it if a second effect does
//!   no harm, or if the system with the effect rejects it.
//! - [`resume`](IdempotencyBuilder::resume) runs the operation again from its last checkpoint.
//!
//! The function of `reconcile_fn` may return [`Settled::Never`] only after it has made the effect
//! of the earlier run impossible. Otherwise the effect can happen twice:
//!
//! 1. A worker is paused just before it charges, and its lease ends.
//! 2. The function looks for a charge, finds none, and returns `Never`.
//! 3. The request is run again and charges.
//! 4. The first worker resumes and charges a second time.
//!
//! To prevent this, reserve the [child key](Run::child_key) or raise the [fence](Run::fence) in
//! the system that charges, before you look for a charge.
//!
//! # Detached runs
//!
//! Each run is a tokio task, in the tracing span of the caller that started it. It needs a tokio
//! runtime, and a service, a request and a response that are `Send + 'static`. If the caller
//! stops waiting, the run continues.
//!
//! The [`run_limit`](IdempotencyBuilder::run_limit) bounds the time of a run. The deadline of the
//! caller bounds only its wait. [`max_runs`](IdempotencyBuilder::max_runs) bounds the number of
//! concurrent runs. To shut down, call [`IdempotencyHandle::close`] and then wait for
//! [`IdempotencyHandle::drained`].
//!
//! A run does not see the deadline, the attempt or the task-locals of the caller.
//!
//! # Readiness
//!
//! The layer is always ready, because a duplicate never reaches the service. Each run waits until
//! a clone of the service is ready.
//!
//! # Clone
//!
//! Clones share the runs, leases and counts of the layer, and the records of the store.
//!
//! # Cancellation
//!
//! Dropping a call before its claim is sent leaves no trace. Dropping it while the claim is under
//! way releases the claim in the background. Dropping it later ends only the wait. The run
//! continues, and its result is recorded. If the runtime is dropped during a run, the outcome of
//! the operation is unknown.
//!
//! # Errors
//!
//! - [`IdempotencyRejected`](crate::error::IdempotencyRejected), with the reason, if the layer
//!   rejects the request or ends the run.
//! - The error of the service, unchanged.
//!
//! A panic of the service reaches the caller, after its operation was recorded as unknown.
//!
//! # Order
//!
//! Place it:
//!
//! - inside authentication, because a key belongs to the authenticated caller;
//! - outside bulkheads and rate limits, because a duplicate should not use them up;
//! - outside the handler's own retries, because all attempts belong to one run.
//!
//! # Telemetry
//!
//! [`IdempotencyHandle::counts`] counts claims, replays, conflicts, mismatches, unknown outcomes,
//! lost leases, and the steps of the store with their time. A step is one call of a [`Store`]
//! method. They also contain the use of a bounded store.
//!
//! [`IdempotencyLayer::register`] adds the layer to a [`Registry`](crate::telemetry::Registry).
//! Besides its rejections, it then has these numbers there. Keys and responses are in none of them.
//!
//! | number | counts |
//! |---|---|
//! | `buttress.idempotency.requests` | each request with a key, once, when the layer decides about it |
//! | `buttress.idempotency.unknown` | operations that became unknown in this process |
//! | `buttress.idempotency.leases.lost` | leases that ended before their run |
//! | `buttress.idempotency.active` | [`in_flight`](IdempotencyHandle::in_flight) |
//! | `buttress.idempotency.store.duration` | steps of the store that ended or timed out, by step |
//!
//! A request has one of these results:
//!
//! | result | meaning |
//! |---|---|
//! | `run` | it is run. Its run may still be rejected later |
//! | `taken_over` | it is run, and takes over an unknown operation |
//! | `replayed` | it gets the recorded response |
//! | `rejected` | it is rejected, and no run began |
//! | `left` | its caller left before the decision, or the reading of its body panicked |
//!
//! A layer that was [closed](IdempotencyHandle::close) is
//! [not ready](crate::telemetry::Registry::ready).
//!
//! | level | event | emitted for |
//! |---|---|---|
//! | `WARN` | `call rejected` | a rejection |
//! | `WARN` | `lease lost` | a lease that ended before its run |
//! | `WARN` | `idempotency store failed` | a step that failed or timed out |
//! | `WARN` | `idempotency store almost full` | a claim after which the store, or the share of its scope, is at 80 % or more; at most once a minute for each |
//! | `ERROR` | `idempotent operation has unknown outcome` | a run that became unknown, with its storage key and fence |
//!
//! A process that dies emits nothing. [`IdempotencyHandle::count_unknown`] includes its runs.

// Imports run one way:
//
//     key, fingerprint <- store <- config, record, run, runs
//         <- request, unknown, lease, active_keys, counts <- shared
//         <- settle, renew, handle, rules <- claim, service <- task, layer <- call, layer_state
//
// Terms in these files:
//
// | term | meaning | type, file |
// |---|---|---|
// | call | a request, on its way to a response | `Idempotency`, `ResponseFuture`; `call.rs` |
// | rules | the parts of a layer that know requests and responses | `Rules`; `rules.rs` |
// | operation | the work that a key identifies in its scope | `Operation`; `rules.rs` |
// | run | the work of one claim, in a task of its own | `run`, `Work`, `Ended`; `task.rs` |
// | claim | the right to run an operation: requested | `Claimant`; `claim.rs` |
// | | sent, perhaps granted, no run begun | `PendingClaim`; `settle.rs` |
// | | granted | `Granted`; `claim.rs` |
// | | with a run under way | `ActiveClaim`; `settle.rs` |
// | settlement | how a claim ends without a result | `Settlement`; `settle.rs` |
// | permit | the slot and the key that a run occupies in this process | `RunPermit`; `claim.rs` |
// | renewed lease | a lease that the renewal task renews | `RenewedLease`; `renew.rs` |
// | shared | the state of one layer, which outlives its calls | `Shared`; `shared.rs` |
// | lease | the time during which a claim excludes all others | `Lease`; `lease.rs` |
// | active key | a key that this process runs or waits for | `ActiveKey`, `JoinedKey`, `RunningKey` |
// | slot | room for one of the runs of this process | `RunSlot`; `runs.rs` |
// | hold | a granted claim as the store knows it: key, owner and fence | `Hold`; `store/mod.rs` |
// | fence | a number that grows with each claim of a key | `Hold::fence` |

mod active_keys;
mod call;
mod claim;
mod config;
mod counts;
mod fingerprint;
pub mod future;
mod handle;
mod key;
mod layer;
mod layer_state;
mod lease;
mod record;
mod renew;
mod request;
mod rules;
mod run;
mod runs;
mod scope;
mod service;
mod settle;
mod shared;
pub mod store;
mod task;
mod unknown;

pub use self::{
    counts::Counts,
    fingerprint::{Digests, Fingerprint},
    handle::IdempotencyHandle,
    key::{InvalidKey, Key, Owner, ScopeId, StorageKey},
    layer::{IdempotencyBuilder, IdempotencyLayer},
    record::{Record, RunOutcome},
    request::{
        FindKey, FindKeyFn, FindScope, FindScopeFn, ReadRequest, ReadRequestFn, RequestKey,
        SingleTenant, find_key_fn, find_scope_fn, read_request_fn,
    },
    run::Run,
    scope::{HasScope, NoScope, Scoped},
    service::Idempotency,
    store::{
        Claim, ClaimMode, ClaimOutcome, Completed, Hold, OnUnknown, Previous, Resolution,
        StepOutcome, Store, StoreError, StoreUsage, UnknownOperation,
    },
    unknown::{Quarantine, Reconcile, Rerun, Resume, SettleUnknown, Settled},
};
