//! Makes a repeated request have the effect of one.
//!
//! Put it in front of a handler whose effect must not happen twice, such as a payment, and whose callers retry.
//! What is safe to repeat as it is needs none, and a handler that only reads has no use for one.
//!
//! ```
//! use buttress::{Error, idempotency::{IdempotencyLayer, Key, RequestKey, store::MemoryStore}};
//! use std::convert::Infallible;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A request is a key and an amount, which make it the same request.
//! type Payment = (&'static str, u64);
//! let guard = IdempotencyLayer::builder_fn(
//!     MemoryStore::new(),
//!     |payment: &Payment| Ok(RequestKey::Key(Key::new(payment.0)?)),
//!     |payment: &Payment, request| request.part(payment.1.to_be_bytes()),
//! );
//! let guard = guard.single_tenant().build()?;
//!
//! let charge = service_fn(|payment: Payment| async move {
//!     Ok::<_, Error<Infallible>>(format!("charged {}", payment.1))
//! });
//! let service = ServiceBuilder::new().layer(&guard).service(charge);
//! assert_eq!(service.clone().oneshot(("k1", 42)).await?, "charged 42");
//! assert_eq!(service.oneshot(("k1", 42)).await?, "charged 42");
//! assert_eq!((guard.handle().counts().claims, guard.handle().counts().replays), (1, 1));
//! # Ok(())
//! # }
//! ```
//!
//! In front of an HTTP handler, with settings of one's own:
//!
#![cfg_attr(feature = "http", doc = "```")]
#![cfg_attr(not(feature = "http"), doc = "```ignore")]
//! use buttress::{
//!     Stack,
//!     bulkhead::BulkheadLayer,
//!     http::HttpServerLayer,
//!     idempotency::{IdempotencyLayer, store::MemoryStore},
//! };
//! use http::Request;
//! use std::time::Duration;
//!
//! // What authentication found out, and put among the extensions.
//! #[derive(Clone)]
//! struct Account(String);
//!
//! let guard = IdempotencyLayer::http(MemoryStore::new())
//!     .scope_fn(|request: &Request<String>| {
//!         request.extensions().get::<Account>().map(|account| account.0.clone())
//!     })
//!     .wait_for_duplicates(Duration::from_secs(10))
//!     .ttl(Duration::from_secs(48 * 60 * 60))
//!     .build()?;
//! let operator = guard.handle();
//! let stack = Stack::new().bulkhead(BulkheadLayer::new());
//! let server = HttpServerLayer::builder(stack).outside(guard).build()?;
//! # let _ = (server, operator);
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! # What is promised
//!
//! An operation is what a key stands for in its scope, for its method and route. It is run once, or else it
//! is *unknown*, which is said and never glossed over. To do exactly once what happens somewhere else cannot be
//! had: a process can die between the effect and its record. What can be had is at most once, with the
//! doubtful cases named; and exactly once where the effect and the record are committed in one transaction
//! ([`transactional`](IdempotencyBuilder::transactional)).
//!
//! | a request finds | it is answered |
//! |---|---|
//! | nothing | by the service, whose response is recorded before anybody sees it |
//! | the same request, done | the recorded response |
//! | the same request, under way | [`InFlight`](crate::error::IdempotencyReason::InFlight), with a time to come back; or it waits |
//! | the same request, done, with a response that could not be kept | [`NotReplayable`](crate::error::IdempotencyReason::NotReplayable) |
//! | another request with its key | [`Mismatch`](crate::error::IdempotencyReason::Mismatch) |
//! | that nobody knows what became of it | [`Unknown`](crate::error::IdempotencyReason::Unknown), with no time to come back |
//! | a store that is down or full | [`StoreUnavailable`](crate::error::IdempotencyReason::StoreUnavailable), [`Full`](crate::error::IdempotencyReason::Full) |
//!
//! What becomes of a run:
//!
//! | the service | the record |
//! |---|---|
//! | answers, whatever it answers | completed: the answer is given again |
//! | answers with the mark `NotStarted` (HTTP) | released: the key is free |
//! | is not asked, for a layer of this crate beneath refuses (open, full, limited, late) | released |
//! | fails, panics, is dropped, runs into a limit | unknown |
//!
//! A rejection of a layer beneath is believed, so the service beneath the guard must not return those of clients that it
//! called itself as its own error: turn them into a response, or into another error.
//!
//! # Leases and fences
//!
//! A claim gives its owner a lease, by the store's clock, which is renewed after each third of it while the
//! run goes on, with others up to a twelfth sooner: what ends within 7.5 s is never renewed. A process that dies leaves its keys blocked until their leases
//! end, and then unknown. A process that was only paused comes back after its lease has ended, and believes
//! that it still has it: whatever it then writes is refused by its *fence*, a number that grows with each claim of a
//! key. Hand the fence on ([`Run::fence`]) to what can refuse by it, too.
//!
//! With [`reserve_first`](IdempotencyBuilder::reserve_first) a process that dies before it began leaves nothing
//! behind; that costs a third trip to the store for each run.
//!
//! # Unknown operations
//!
//! They are never silently run again. By default they are left to an operator:
//! [`IdempotencyHandle::unknown`] lists them, [`IdempotencyHandle::resolve`] says what became of
//! them. Records do not say whose they are or what was asked: log [`Run::storage_key`] with the
//! effect, or compute the [`StorageKey`](StorageKey::of) of a customer's key, which over HTTP is of
//! the scope, the method and the path, and the key. A route may say what else is done:
//! [`reconcile_fn`](IdempotencyBuilder::reconcile_fn) asks a function,
//! [`rerun`](IdempotencyBuilder::rerun) declares that the effect is idempotent or keyed,
//! [`resume`](IdempotencyBuilder::resume) goes on from a checkpoint.
//!
//! A function that reconciles may say *never* only after it has made the effect impossible. This is how
//! it goes wrong otherwise: the worker is paused just before it charges; its lease ends; the function looks, sees
//! no charge, and says *never*; the request is run again and charges; the worker wakes up, and charges.
//! So take the [child key](Run::child_key) or raise the [fence](Run::fence) where the charge is made, before you
//! look.
//!
//! # Detached runs
//!
//! A run is a task of its own, under the span of the caller that it began for. It needs a tokio runtime, and a
//! service, request and response that are `Send + 'static`. Who leaves ends the waiting and not the run. Its limit
//! ([`run_limit`](IdempotencyBuilder::run_limit)) stands in place of the caller's deadline, which limits the wait.
//! Runs are counted and bounded ([`max_runs`](IdempotencyBuilder::max_runs)). A process that shuts down
//! calls [`IdempotencyHandle::close`], and then waits for [`IdempotencyHandle::drained`].
//!
//! What is ambient for the caller ends at the guard: its deadline, its attempt, and task-locals.
//!
//! # Readiness
//!
//! Always ready: what comes twice never reaches the service. A run drives a clone of the service to readiness.
//!
//! # Clone
//!
//! The runs, leases and counts belong to the layer; the records to the store.
//!
//! # Cancellation
//!
//! Dropped before the claim, the call leaves no trace. Dropped while it is claimed, what was claimed is released
//! in the background. After that the run goes on, and its result is recorded. A run that is dropped itself, with its
//! runtime, is unknown.
//!
//! # Errors
//!
//! [`IdempotencyRejected`](crate::error::IdempotencyRejected), with the reason; the errors of the service of a run as they are; a
//! panic of the service, once its operation has been noted as unknown.
//!
//! # Order
//!
//! Inside authentication, for a key belongs to whoever was authenticated; outside limits, since a duplicate
//! should take no slot; outside retries of the handler's own.
//!
//! # Telemetry
//!
//! [`IdempotencyHandle::counts`]: claims, replays, conflicts, mismatches, unknowns, lost leases,
//! and what the store took. `WARN` for a refusal, a lost lease, a step of the store that failed;
//! `ERROR` for a run that became unknown, with its storage key and fence. Of a process that died
//! nothing is said: [`IdempotencyHandle::count_unknown`] counts its runs too.

// Imports run one way:
//
//     key, fingerprint <- store <- config, record, run, runs, events
//         <- request, unknown, lease, active_keys, counts <- shared
//         <- settle, renew, handle, rules <- claim, service <- task, layer <- call
//
// The private words of these files:
//
// | word | means | type, file |
// |---|---|---|
// | call | a request, on its way to a response | `Idempotency`, `ResponseFuture`; `call.rs` |
// | rules | the parts of a guard that know requests and responses | `Rules`; `rules.rs` |
// | operation | what a key stands for in its scope | `Operation`; `rules.rs` |
// | run | the work of one claim, in a task of its own | `run`, `Work`, `Ended`; `task.rs` |
// | claim | the right to run an operation: requested | `Claimant`; `claim.rs` |
// | | sent, perhaps made, no run begun | `PendingClaim`; `settle.rs` |
// | | granted | `Granted`; `claim.rs` |
// | | with a run under way | `ActiveClaim`; `settle.rs` |
// | settlement | how a claim ends without a result | `Settlement`; `settle.rs` |
// | permit | what a run takes up in this process: a slot, and its key | `RunPermit`; `claim.rs` |
// | renewed lease | a lease that the renewing task takes care of | `RenewedLease`; `renew.rs` |
// | shared | the state of one guard, which outlives its calls | `Shared`; `shared.rs` |
// | lease | until when a claim keeps out all others | `Lease`; `lease.rs` |
// | active key | a key that this process runs or waits for | `ActiveKey`, `JoinedKey`, `RunningKey` |
// | slot | room for one run among those of this process | `RunSlot`; `runs.rs` |
// | hold | a granted claim as the store knows it: key, owner and fence | `Hold`; `store/mod.rs` |
// | fence | a number that grows with each claim of a key | `Hold::fence` |

mod active_keys;
mod call;
mod claim;
mod config;
mod counts;
mod events;
mod fingerprint;
pub mod future;
mod handle;
mod key;
mod layer;
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
    record::{Record, RecordClones, Recorded, RunOutcome},
    request::{
        FindKey, FindKeyFn, FindScope, FindScopeFn, ReadRequest, ReadRequestFn, RequestKey,
        SingleTenant, find_key_fn, find_scope_fn, read_request_fn,
    },
    run::Run,
    scope::{HasScope, NoScope, Scoped},
    service::Idempotency,
    store::{
        Claim, ClaimMode, ClaimOutcome, Completed, Hold, OnUnknown, Previous, Resolution,
        StepOutcome, Store, StoreError, UnknownOperation,
    },
    unknown::{Quarantine, Reconcile, Rerun, Resume, SettleUnknown, Settled},
};
