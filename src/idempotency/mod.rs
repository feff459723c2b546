//! Makes a repeated request have the effect of one.

mod fingerprint;
mod key;
mod layer;
pub mod store;

pub use self::{
    fingerprint::{Digests, Fingerprint},
    key::{InvalidKey, Key, Owner, ScopeId, StorageKey},
    store::{
        Answer, Claim, ClaimMode, Completed, Hold, OnUnknown, Previous, Resolution, Store,
        StoreError, UnknownOperation, Written,
    },
};
