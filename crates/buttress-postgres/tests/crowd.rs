//! Many concurrent duplicates, with the records in PostgreSQL.

#[path = "../../../tests/support/crowd.rs"]
mod crowd;

use buttress_postgres::PostgresStore;
use crowd::{Outcome, no_crowd_gets_more_than_one_execution};
use test_servers::PostgresServer;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_crowd_gets_more_than_one_execution_from_postgres() -> Outcome {
    let (first, second) = (PostgresServer::start()?, PostgresServer::start()?);
    no_crowd_gets_more_than_one_execution(
        PostgresStore::builder(first.url().parse()?).build().await?,
        PostgresStore::builder(second.url().parse()?).build().await?,
    )
    .await
}
