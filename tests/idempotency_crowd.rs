//! Tests of many concurrent duplicates, with the records in memory.
#![cfg(feature = "http")]

#[path = "support/crowd.rs"]
mod crowd;

use buttress::idempotency::store::MemoryStore;
use crowd::{Outcome, no_crowd_gets_more_than_one_execution};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_crowd_gets_more_than_one_execution_from_memory() -> Outcome {
    no_crowd_gets_more_than_one_execution(MemoryStore::new(), MemoryStore::new()).await
}
