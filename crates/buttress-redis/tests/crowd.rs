//! Many concurrent duplicates, with the records in Redis.

#[path = "../../../tests/support/crowd.rs"]
mod crowd;

use buttress_redis::RedisStore;
use crowd::{Outcome, no_crowd_gets_more_than_one_execution};
use test_servers::RedisServer;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_crowd_gets_more_than_one_execution_from_redis() -> Outcome {
    let server = RedisServer::start(&[])?;
    no_crowd_gets_more_than_one_execution(
        RedisStore::builder(server.url()).prefix("first:").build().await?,
        RedisStore::builder(server.url()).prefix("second:").build().await?,
    )
    .await
}
