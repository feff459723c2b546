//! The store in memory: what every store does, and what is its own.

use std::time::Duration;

use buttress::{
    idempotency::{
        Answer, Claim, Completed, Fingerprint, Hold, Owner, ScopeId, StorageKey, Store, StoreError,
        Written, store::MemoryStore,
    },
    testing::idempotency::{Fixture, check},
};

struct Memory;

impl Fixture for Memory {
    type Store = MemoryStore;

    async fn fresh(&self) -> MemoryStore {
        MemoryStore::new()
    }

    fn payload(&self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }

    fn bytes(&self, payload: &Vec<u8>) -> Vec<u8> {
        payload.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn it_does_what_every_store_does() {
    check(&Memory).await.assert();
}
