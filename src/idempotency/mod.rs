//! Makes a repeated request have the effect of one.

mod fingerprint;
mod key;
mod layer;
mod record;
mod request;
mod run;
pub mod store;

#[cfg(feature = "http")]
pub(crate) use self::record::{judge_error, nothing_began};
pub use self::{
    fingerprint::{Digests, Fingerprint},
    key::{InvalidKey, Key, Owner, ScopeId, StorageKey},
    record::{Kept, Record, RecordClones, Verdict},
    request::{ByFn, FindKey, FindScope, Found, ReadRequest, SingleTenant},
    run::Run,
    store::{
        Answer, Claim, ClaimMode, Completed, Hold, OnUnknown, Previous, Resolution, Store,
        StoreError, UnknownOperation, Written,
    },
};
