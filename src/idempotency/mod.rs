//! Makes a repeated request have the effect of one.

mod call;
mod fingerprint;
mod future;
mod guard;
mod key;
mod layer;
mod lease;
mod record;
mod request;
mod run;
mod runs;
mod service;
mod settle;
pub mod store;
mod task;
mod unknown;
mod waiting;

pub use self::{
    fingerprint::{Digests, Fingerprint},
    future::ResponseFuture,
    guard::{Counts, Guard},
    key::{InvalidKey, Key, Owner, ScopeId, StorageKey},
    layer::{IdempotencyBuilder, IdempotencyLayer, Unscoped},
    record::{Kept, Record, RecordClones, Verdict},
    request::{ByFn, FindKey, FindScope, Found, ReadRequest, SingleTenant},
    run::Run,
    service::Idempotency,
    store::{
        Answer, Claim, ClaimMode, Completed, Hold, OnUnknown, Previous, Resolution, Store,
        StoreError, UnknownOperation, Written,
    },
    unknown::{Quarantine, Reconcile, Rerun, Resume, SettleUnknown, Settled},
};
