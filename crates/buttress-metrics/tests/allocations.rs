//! Checks that a duration is recorded without an allocation, apart from those of the recorder.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use allocation_counter::measure;
use buttress::{Stack, retry::ReplayClones, telemetry::Registry};
use buttress_metrics::Collector;
use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    set_default_local_recorder,
};
use tokio::runtime::Builder;
use tower::{ServiceExt, service_fn};

#[derive(Default)]
struct Count(AtomicU32);

impl HistogramFn for Count {
    fn record(&self, _: f64) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A recorder that counts all durations in one place.
#[derive(Default)]
struct Counting(Arc<Count>);

impl Recorder for Counting {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::clone(&self.0))
    }
}

/// Returns the number of allocations of a call that is retried, after some others.
fn allocations(registry: &Registry) -> u64 {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let broken = service_fn(|_: u32| async { Err::<u32, _>(io::Error::other("broken")) });
    let stack = Stack::standard(ReplayClones).name("orders").register(registry).service(broken);
    let call = || {
        runtime.block_on(stack.clone().oneshot(7)).unwrap_err();
    };
    (0..3).for_each(|_| call());
    measure(call).count_total
}

#[test]
fn recording_a_duration_allocates_nothing() {
    let recorder = Counting::default();
    let _guard = set_default_local_recorder(&recorder);
    let registry = Registry::new();
    let _collector = Collector::new(&registry);
    assert_eq!(allocations(&registry), allocations(&Registry::new()));
    assert!(recorder.0.0.load(Ordering::Relaxed) > 0);
}
