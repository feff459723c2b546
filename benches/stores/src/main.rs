//! Counts the round trips of a request through the idempotency layer, as the servers count them.
//!
//! ```sh
//! cargo run -p trips
//! ```

use std::convert::Infallible;

use buttress::{
    BoxError, ConfigError, Error,
    idempotency::{IdempotencyLayer, Key, RequestKey, Store},
};
use buttress_postgres::PostgresStore;
use buttress_redis::RedisStore;
use test_servers::{PostgresServer, RedisServer};
use tower::{Layer, Service, ServiceExt, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    redis_trips().await?;
    postgres_trips().await
}

/// Builds a service behind the idempotency layer.
fn guarded<St: Store<Payload = Vec<u8>>>(
    store: St,
    reserved: bool,
) -> Result<impl Service<u32, Response = Vec<u8>, Error = Error<Infallible>>, ConfigError> {
    let guard = IdempotencyLayer::builder_fn(
        store,
        |n: &u32| Ok(RequestKey::Key(Key::new(n.to_string())?)),
        |n: &u32, request| request.part(n.to_be_bytes()),
    );
    let mut guard = guard.single_tenant();
    if reserved {
        guard = guard.reserve_first();
    }
    let service = service_fn(|n: u32| async move { Ok(n.to_be_bytes().to_vec()) });
    Ok(guard.build()?.layer(service))
}

async fn call_for_each(
    service: &mut impl Service<u32, Response = Vec<u8>, Error = Error<Infallible>>,
    keys: std::ops::Range<u32>,
) -> Result<(), BoxError> {
    for key in keys {
        service.ready().await?.call(key).await?;
    }
    Ok(())
}

/// The number of counted requests. The same number comes before, to warm up the connection.
const REQUESTS: u32 = 100;

fn say(what: &str, counts: [f64; 2]) {
    let [plain, reserved] = counts.map(|count| count / f64::from(REQUESTS));
    println!("{what}: {plain:.2} a request, {reserved:.2} with `reserve_first`");
}

async fn redis_trips() -> Result<(), BoxError> {
    let server = RedisServer::start(&[])?;
    let store = RedisStore::builder(server.url()).build().await?;
    let client = redis::Client::open(server.url())?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let mut counts = [0.0; 2];
    for (reserved, from) in [(false, 0), (true, 2 * REQUESTS)] {
        let mut service = guarded(store.clone(), reserved)?;
        // This connects, and sweeps the store, which happens once a minute.
        call_for_each(&mut service, from..from + REQUESTS).await?;
        let _: () = redis::cmd("CONFIG").arg("RESETSTAT").query_async(&mut connection).await?;
        call_for_each(&mut service, from + REQUESTS..from + 2 * REQUESTS).await?;
        let said: String =
            redis::cmd("INFO").arg("commandstats").query_async(&mut connection).await?;
        // The commands within a script are listed too, but take no round trip.
        for line in said.lines() {
            let name = line.split(':').next().unwrap_or_default();
            let calls = line.split("calls=").nth(1).and_then(|rest| rest.split(',').next());
            if name == "cmdstat_evalsha" || name == "cmdstat_eval" {
                counts[usize::from(reserved)] += calls.unwrap_or_default().parse::<f64>()?;
            }
        }
    }
    say("scripts of Redis", counts);
    Ok(())
}

async fn postgres_trips() -> Result<(), BoxError> {
    let server = PostgresServer::start()?;
    let config: tokio_postgres::Config = server.url().parse()?;
    let store = PostgresStore::builder(config.clone()).build().await?;
    let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    client.batch_execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements").await?;
    let mut counts = [0.0; 2];
    for (reserved, from) in [(false, 0), (true, 2 * REQUESTS)] {
        let mut service = guarded(store.clone(), reserved)?;
        // This connects, and sweeps the store, which happens once a minute.
        call_for_each(&mut service, from..from + REQUESTS).await?;
        client.batch_execute("SELECT pg_stat_statements_reset()").await?;
        call_for_each(&mut service, from + REQUESTS..from + 2 * REQUESTS).await?;
        let calls = client
            .query_one(
                "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements
                 WHERE query NOT LIKE '%pg_stat_statements%'",
                &[],
            )
            .await?;
        counts[usize::from(reserved)] = calls.get::<_, i64>(0) as f64;
    }
    say("statements of PostgreSQL", counts);
    drop(client);
    connection.await??;
    Ok(())
}
