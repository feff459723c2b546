use std::{collections::HashMap, panic::AssertUnwindSafe, task::Poll};

use allocation_counter::measure;
use buttress::cache::CacheLayer;
use futures::FutureExt;
use proptest::prelude::*;
use tokio::time::advance;
use tower::{Layer, ServiceExt};

use super::*;

#[tokio::test(start_paused = true)]
async fn ttl_on_a_paused_clock() {
    let (backend, cache) = (Backend::after(Duration::ZERO), cache().ttl(10 * SECOND));
    let cache = cache.build().unwrap();
    let service = cache.layer(backend.clone());
    assert_eq!(service.clone().oneshot(1).await.unwrap(), 1);
    advance(8 * SECOND).await;
    assert_eq!(service.clone().oneshot(1).await.unwrap(), 1);
    advance(2 * SECOND).await;
    assert_eq!(service.clone().oneshot(1).await.unwrap(), 2);
    let counts = cache.handle().counts();
    assert_eq!((counts.hits, counts.misses, counts.entries), (1, 2, 1));
}

#[tokio::test(start_paused = true)]
async fn entries_that_were_made_together_do_not_end_together() {
    let (backend, cache) = (Backend::after(Duration::ZERO), cache().ttl(100 * SECOND));
    let service = cache.build().unwrap().layer(backend.clone());
    for key in 1..=100 {
        service.clone().oneshot(key).await.unwrap();
    }
    advance(95 * SECOND).await;
    for key in 1..=100 {
        service.clone().oneshot(key).await.unwrap();
    }
    assert!((110..=190).contains(&backend.calls()), "{}", backend.calls());
}

#[test]
fn a_hit_allocates_nothing_and_needs_no_runtime() {
    let backend = Backend::after(Duration::ZERO);
    let mut service = cache().build().unwrap().layer(backend);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(service.clone().oneshot(1)).unwrap();
    drop(runtime);
    // The first hit of a thread makes its counter.
    assert!(service.clone().oneshot(1).now_or_never().is_some());
    let mut context = Context::from_waker(std::task::Waker::noop());
    let allocated = measure(|| {
        assert!(service.poll_ready(&mut context).is_ready());
        let mut call = std::pin::pin!(service.call(1));
        assert!(matches!(call.as_mut().poll(&mut context), Poll::Ready(Ok(1))));
    });
    assert_eq!(allocated.count_total, 0);
}

/// A stack for each of 1,000 hosts may have a cache each.
#[test]
fn an_empty_cache_is_small() {
    let mut kept = None;
    let allocated = measure(|| kept = cache().build().ok());
    assert!(allocated.bytes_current < 64 << 10, "{} B", allocated.bytes_current);
    kept.unwrap().handle().forget(&1);
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_key_is_neither_kept_nor_shared() {
    let backend = Backend::after(SECOND);
    let cache = cache().build().unwrap();
    let service = cache.layer(backend.clone());
    let (first, second) = tokio::join!(service.clone().oneshot(0), service.clone().oneshot(0));
    assert_eq!((first.unwrap(), second.unwrap()), (1, 2));
    let counts = cache.handle().counts();
    assert_eq!((counts.bypassed, counts.entries, backend.calls()), (2, 0, 2));
}

#[tokio::test(start_paused = true)]
async fn a_key_function_that_panics_harms_only_its_caller() {
    let key = |request: &u32| if *request == 7 { panic!("no key") } else { Some(*request) };
    let cache = CacheLayer::by_fn(key).build().unwrap();
    let mut service = cache.layer(Backend::after(Duration::ZERO));
    let panic = std::panic::AssertUnwindSafe(|| drop(service.call(7)));
    assert!(std::panic::catch_unwind(panic).is_err());
    assert_eq!(service.clone().oneshot(1).await.unwrap(), 1);
    assert_eq!(service.oneshot(1).await.unwrap(), 1);
}

/// A key whose comparison panics.
#[derive(Clone, Debug)]
struct Incomparable(u32);

impl PartialEq for Incomparable {
    fn eq(&self, other: &Self) -> bool {
        assert!(self.0 != 7, "cannot be compared");
        self.0 == other.0
    }
}

impl Eq for Incomparable {}

impl std::hash::Hash for Incomparable {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

#[tokio::test(start_paused = true)]
async fn a_comparison_that_panics_costs_a_call_and_poisons_nothing() {
    let backend = Backend::after(Duration::ZERO);
    let cache = CacheLayer::by_fn(|request: &u32| Some(Incomparable(*request))).build().unwrap();
    let service = cache.layer(backend.clone());
    for calls in 1..=3 {
        assert_eq!(service.clone().oneshot(7).await.unwrap(), calls);
    }
    for key in 8..200 {
        let first = service.clone().oneshot(key).await.unwrap();
        assert_eq!(service.clone().oneshot(key).await.unwrap(), first);
    }
}

/// A key of which one comparison panics.
#[derive(Clone, Debug)]
struct PanicsOnce(u32, Arc<AtomicU32>);

impl PartialEq for PanicsOnce {
    fn eq(&self, other: &Self) -> bool {
        assert!(self.1.fetch_sub(1, Ordering::Relaxed) != 1, "cannot be compared now");
        self.0 == other.0
    }
}

impl Eq for PanicsOnce {}

impl std::hash::Hash for PanicsOnce {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

#[tokio::test(start_paused = true)]
async fn a_comparison_that_panicked_once_leaves_no_call_behind() {
    for n in 1..12 {
        let left = Arc::new(AtomicU32::new(n));
        let of_key = Arc::clone(&left);
        let cache = CacheLayer::by_fn(move |key: &u32| Some(PanicsOnce(*key, Arc::clone(&of_key))));
        let backend = Backend::after(Duration::ZERO);
        let service = cache.ttl(SECOND).build().unwrap().layer(backend.clone());
        for _ in 0..11 {
            _ = AssertUnwindSafe(service.clone().oneshot(1)).catch_unwind().await;
            left.store(u32::MAX / 2, Ordering::Relaxed);
            tokio::time::sleep(10 * SECOND).await;
        }
        assert!(backend.calls() >= 10, "{} calls after a panic at {n}", backend.calls());
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_that_says_there_is_nothing_is_kept_for_less_time() {
    let backend =
        Backend::new(|key, call| Box::pin(async move { Ok(if key == 4 { 404 } else { call }) }));
    let ttl = |response: &u32| (*response == 404).then_some(SECOND);
    let service = cache().ttl(60 * SECOND).ttl_fn(ttl).build().unwrap().layer(backend.clone());
    for (after, calls) in [(Duration::ZERO, 2), (Duration::ZERO, 2), (SECOND, 3)] {
        advance(after).await;
        service.clone().oneshot(4).await.unwrap();
        service.clone().oneshot(1).await.unwrap();
        assert_eq!(backend.calls(), calls);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn bytes_are_bounded_under_any_key(
        requests in prop::collection::vec((1_u32..5_000, 0_usize..6_000), 1..600),
    ) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            const MAX: usize = 16 * (4_096 + 256);
            let sizes: HashMap<u32, usize> = requests.iter().copied().collect();
            let known = sizes.clone();
            let backend = Backend::new(|key, _| Box::pin(async move { Ok(key) }));
            let cache = cache()
                .max_entry_bytes(4_096)
                .max_bytes(MAX)
                .size_fn(move |key| known[key])
                .build()
                .unwrap();
            let service = cache.layer(backend);
            for key in sizes.keys() {
                service.clone().oneshot(*key).await.unwrap();
                let counts = cache.handle().counts();
                assert!(counts.bytes <= MAX as u64, "{counts:?}");
                // The biggest entry that is allowed is kept.
                let is_kept = sizes[key] + size_of::<u32>() <= 4_096;
                service.clone().oneshot(*key).await.unwrap();
                let hit = cache.handle().counts().hits - counts.hits;
                assert_eq!(hit == 1, is_kept, "{key} {}", sizes[key]);
            }
        });
    }
}
