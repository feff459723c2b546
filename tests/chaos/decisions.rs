//! The seed and the number of a call decide on its fault.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    task::Poll,
    thread,
};

use buttress::{
    telemetry::{Event, Observer, Registry, Source},
    testing::task::SpawnedService,
};
use tower::Layer;

use super::{HOUR, builder, call, client, failed, reset};

/// The numbers of the calls with a fault, and their faults.
type Injected = BTreeSet<(u64, &'static str)>;

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Injected>>);

impl Observer for Seen {
    fn on_event(&self, _: Source<'_>, event: &Event<'_>) {
        if let Event::FaultInjected { fault, call, .. } = *event {
            assert!(self.0.lock().unwrap().insert((call, fault)), "call {call} has two faults");
        }
    }
}

/// Makes 8,000 calls on some threads. Returns the faults that they had.
fn injected(threads: u32, seed: u64) -> Injected {
    let (registry, seen) = (Registry::new(), Seen::default());
    registry.observe(seen.clone());
    let chaos =
        armed!(builder().seed(seed).errors_fn(0.2, reset).responses_fn(0.1, |_: &&'static str| 2));
    let chaos = chaos.register(&registry);
    let run = || {
        let mut service = SpawnedService::new(chaos.layer(client().0));
        let mut faults = 0;
        for _ in 0..8_000 / threads {
            assert!(service.poll_ready().is_ready());
            match service.call("request").poll() {
                Poll::Ready(Ok(1)) => {}
                Poll::Ready(_) => faults += 1,
                Poll::Pending => panic!("nothing waits"),
            }
        }
        faults
    };
    let faults: u64 = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(chaos.handle().injected(), faults);
    std::mem::take(&mut *seen.0.lock().unwrap())
}

#[test]
fn the_same_seed_injects_the_same_faults_on_any_number_of_threads() {
    let alone = injected(1, 42);
    assert_eq!(injected(8, 42), alone);
    assert_ne!(injected(1, 43), alone);
}

#[test]
fn of_each_thousand_calls_each_fault_has_exactly_its_share() {
    let injected = injected(2, 7);
    for thousand in 0..8 {
        let calls = || injected.range((thousand * 1_000, "")..(thousand * 1_000 + 1_000, ""));
        let errors = calls().filter(|(_, fault)| *fault == "error").count();
        assert_eq!((errors, calls().count() - errors), (200, 100), "thousand {thousand}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_partition_does_not_change_the_shares_of_the_calls_on_this_side() {
    let chaos = builder().errors_fn(0.3, reset).partition_fn(|host: &&str| *host == "eu");
    let mut service = SpawnedService::new(armed!(chaos.max_hung(1)).layer(client().0));
    let mut failed = 0;
    for number in 0..3_000 {
        let host = if number % 3 == 0 { "us" } else { "eu" };
        assert!(service.poll_ready().is_ready());
        let is_error = matches!(service.call(host).poll(), Poll::Ready(Err(_)));
        assert!(host == "us" || !is_error);
        failed += u32::from(is_error);
    }
    assert_eq!(failed, 300);
}

#[tokio::test(start_paused = true)]
async fn the_same_calls_have_the_same_faults_after_each_arming() {
    let chaos = builder().errors_fn(0.5, reset).build().unwrap();
    let mut service = chaos.layer(client().0);
    // Calls of a disarmed layer are not counted.
    assert_eq!(failed(&mut service).await, [false; 64]);
    let handle = chaos.handle();
    handle.arm_for(HOUR).unwrap();
    let first = failed(&mut service).await;
    assert!(first.contains(&true) && first.contains(&false));
    assert_ne!(failed(&mut service).await, first, "the numbers go on");
    handle.arm_for(HOUR).unwrap();
    assert_eq!(failed(&mut service).await, first);
    handle.disarm();
    handle.arm_for(HOUR).unwrap();
    assert_eq!(failed(&mut service).await, first);
}

#[tokio::test(start_paused = true)]
async fn clones_and_services_share_one_switch_and_one_numbering() {
    let chaos = builder().errors_fn(0.5, reset).build().unwrap();
    chaos.handle().arm_for(HOUR).unwrap();
    let expected = failed(&mut chaos.layer(client().0)).await;
    chaos.clone().handle().arm_for(HOUR).unwrap();
    let (mut one, mut other) = (chaos.layer(client().0), chaos.clone().layer(client().0));
    let mut shared = Vec::new();
    for number in 0..64 {
        let mut third = one.clone();
        shared.push(match number % 3 {
            0 => call(&mut one).await.is_err(),
            1 => call(&mut other).await.is_err(),
            _ => call(&mut third).await.is_err(),
        });
    }
    assert_eq!(shared, expected);
}
