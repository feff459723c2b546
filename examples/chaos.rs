//! Tries an outage of a shop: with a bare client, and with a stack.
//!
//! ```sh
//! cargo run --example chaos
//! ```
//!
//! Tokio's clock is paused, so the example ends at once.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use buttress::{BoxError, Stack, chaos::ChaosLayer, retry::ReplayClones};
use tokio::time::{sleep, timeout};
use tower::{Layer, Service, ServiceExt, service_fn};

const CALLS: u32 = 200;
/// A caller leaves after this time.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Counts {
    ok: u32,
    failed: u32,
    hung: u32,
}

/// Makes about ten calls per second.
async fn visit<S>(mut client: S) -> Result<Counts, S::Error>
where
    S: Service<&'static str>,
{
    let mut counts = Counts::default();
    for _ in 0..CALLS {
        match timeout(PATIENCE, client.ready().await?.call("/books")).await {
            Ok(Ok(_)) => counts.ok += 1,
            Ok(Err(_)) => counts.failed += 1,
            Err(_) => counts.hung += 1,
        }
        sleep(Duration::from_millis(80)).await;
    }
    Ok(counts)
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), BoxError> {
    let received = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&received);
    let shop = service_fn(move |_: &'static str| {
        counted.fetch_add(1, Ordering::Relaxed);
        async {
            sleep(Duration::from_millis(20)).await;
            Ok::<_, io::Error>("3 books")
        }
    });

    let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
    let faults = ChaosLayer::builder().name("shop").seed(7);
    let faults = faults.errors_fn(0.04, reset).hangs(0.02).lost_responses(0.02);
    let chaos = faults.delays(0.1, Duration::from_millis(300)).build()?;
    let handle = chaos.handle();

    // The layer stands next to the client, with and without a stack above it.
    let bare = chaos.layer(shop.clone());
    let stacked = Stack::standard(ReplayClones).service(chaos.layer(shop));

    println!("{CALLS} calls            ok  failed  hung  faults  received by the shop");
    for armed in [false, true] {
        for stack in [false, true] {
            received.store(0, Ordering::Relaxed);
            let before = handle.injected();
            if armed {
                handle.arm_for(Duration::from_secs(3600))?;
            }
            let counts = match stack {
                true => visit(stacked.clone()).await?,
                false => visit(bare.clone()).await?,
            };
            handle.disarm();
            let name = if armed { "armed" } else { "disarmed" };
            let client = if stack { "stack" } else { "bare" };
            let (faults, received) = (handle.injected() - before, received.load(Ordering::Relaxed));
            let Counts { ok, failed, hung } = counts;
            println!("{name:10}{client:8}{ok:7}{failed:8}{hung:6}{faults:8}{received:22}");
            if (ok == CALLS) != (stack || !armed) {
                return Err(format!("{name}, {client}: {ok} of {CALLS} calls succeeded").into());
            }
        }
    }
    Ok(())
}
