//! Many concurrent duplicates, with the records in files.

#[path = "../../../tests/support/crowd.rs"]
mod crowd;

use buttress_redb::RedbStore;
use crowd::{Outcome, no_crowd_gets_more_than_one_execution};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_crowd_gets_more_than_one_execution_from_a_file() -> Outcome {
    let path = |name: &str| {
        std::env::temp_dir().join(format!("buttress-crowd-{}-{name}.redb", std::process::id()))
    };
    let (first, second) = (path("first"), path("second"));
    let done =
        no_crowd_gets_more_than_one_execution(RedbStore::open(&first)?, RedbStore::open(&second)?)
            .await;
    std::fs::remove_file(first)?;
    std::fs::remove_file(second)?;
    done
}
