//! Panics of the user's code and runtimes that end wedge no key.

use std::{
    sync::{OnceLock, atomic::AtomicBool},
    task::Wake,
};

use buttress::cache::CacheHandle;
use tokio::{
    runtime::Builder,
    time::{advance, timeout},
};
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::{Layer, ServiceExt, service_fn};

use super::*;

#[test]
fn a_task_that_never_ran_frees_those_who_joined() {
    let runtime = || Builder::new_current_thread().enable_time().build().unwrap();
    let backend = Backend::new(|_, call| Box::pin(async move { Ok(call) }));
    let service = cache().build().unwrap().layer(backend.clone());
    let ends = runtime();
    let mut first = task::spawn(service.clone().oneshot(1));
    {
        let _entered = ends.enter();
        assert_pending!(first.poll());
    }
    runtime().block_on(async move {
        let mut joined = task::spawn(service.clone().oneshot(1));
        assert_pending!(joined.poll());
        ends.shutdown_background();
        assert!(joined.is_woken());
        let joined = timeout(SECOND, joined).await.unwrap();
        assert_eq!((joined.unwrap(), backend.calls()), (1, 1));
        assert_eq!(timeout(SECOND, service.oneshot(1)).await.unwrap().unwrap(), 2);
    });
}

/// A value whose clone panics once, when it is made for the n-th time.
struct Fragile {
    clones: Arc<AtomicU32>,
    panics_at: u32,
}

impl Clone for Fragile {
    fn clone(&self) -> Self {
        let made = self.clones.fetch_add(1, Ordering::Relaxed) + 1;
        assert!(made != self.panics_at, "a clone that panics");
        Self { clones: Arc::clone(&self.clones), panics_at: self.panics_at }
    }
}

#[tokio::test(start_paused = true)]
async fn a_clone_of_a_response_that_panics_frees_the_key() {
    for panics_at in 1..4 {
        let clones = Arc::new(AtomicU32::new(0));
        let inner = service_fn(move |_: u32| {
            let clones = Arc::clone(&clones);
            async move {
                tokio::time::sleep(SECOND).await;
                Ok::<_, Error<io::Error>>(Fragile { clones, panics_at })
            }
        });
        let cache = CacheLayer::by_fn(|key: &u32| Some(*key)).build().unwrap();
        let service = cache.layer(inner);
        let calls: Vec<_> = (0..3).map(|_| tokio::spawn(service.clone().oneshot(1))).collect();
        for call in calls {
            // Each ends, even if with a panic.
            drop(timeout(10 * SECOND, call).await.unwrap());
        }
        assert!(timeout(10 * SECOND, service.oneshot(1)).await.unwrap().is_ok(), "{panics_at}");
        assert_eq!(cache.handle().counts().shared_calls, 0);
    }
}

/// A key whose clone panics while it is armed.
#[derive(Hash, PartialEq, Eq)]
struct Key(u32);

static IS_ARMED: AtomicBool = AtomicBool::new(false);

impl Clone for Key {
    fn clone(&self) -> Self {
        assert!(!IS_ARMED.load(Ordering::Relaxed), "a clone that panics");
        Self(self.0)
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_whose_clone_panics_blocks_nobody() {
    let backend = Backend::after(SECOND);
    let cache = CacheLayer::by_fn(|key: &u32| Some(Key(*key))).build().unwrap();
    let service = cache.layer(backend.clone());
    let running = tokio::spawn(service.clone().oneshot(1));
    settle().await;
    IS_ARMED.store(true, Ordering::Relaxed);
    // One begins a call, and one joins a call.
    for key in [2, 1] {
        assert!(tokio::spawn(service.clone().oneshot(key)).await.is_err());
    }
    IS_ARMED.store(false, Ordering::Relaxed);
    // The one that panicked is no caller of the call, which ends with its last one.
    running.abort();
    settle().await;
    assert_eq!((backend.dropped(), cache.handle().counts().shared_calls), (1, 0));
    for key in [1, 2] {
        assert!(timeout(10 * SECOND, service.clone().oneshot(key)).await.unwrap().is_ok());
    }
    assert_eq!(cache.handle().counts().shared_calls, 0);
}

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("a waker that panics");
    }
}

#[tokio::test(start_paused = true)]
async fn a_waker_that_panics_costs_nobody_else_the_wake_up() {
    let service = cache().build().unwrap().layer(Backend::after(SECOND));
    let mut callers: [_; 3] = std::array::from_fn(|_| task::spawn(service.clone().oneshot(1)));
    assert_pending!(callers[0].poll());
    let mut fragile = Box::pin(service.clone().oneshot(1));
    let waker = Arc::new(Panics).into();
    assert!(fragile.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    for caller in &mut callers[1..] {
        assert_pending!(caller.poll());
    }
    settle().await;
    advance(SECOND).await;
    settle().await;
    for caller in &mut callers {
        assert!(caller.is_woken());
        assert_eq!(assert_ready_ok!(caller.poll()), 1);
    }
    assert_eq!(fragile.await.unwrap(), 1);
}

static OBSERVED: OnceLock<CacheHandle<u32, Observed>> = OnceLock::new();

/// A value whose clones look at the cache.
struct Observed;

impl Clone for Observed {
    fn clone(&self) -> Self {
        let counts = OBSERVED.get().unwrap().counts();
        assert_eq!((counts.shared_calls, counts.entries), (1, 0), "it ended before it was stored");
        Self
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_is_under_way_until_its_response_is_stored() {
    let inner = service_fn(|_: u32| async { Ok::<_, Error<io::Error>>(Observed) });
    let cache = CacheLayer::by_fn(|key: &u32| Some(*key)).build().unwrap();
    assert!(OBSERVED.set(cache.handle()).is_ok());
    assert!(cache.layer(inner).oneshot(1).await.is_ok());
    let counts = cache.handle().counts();
    assert_eq!((counts.shared_calls, counts.entries), (0, 1));
}
