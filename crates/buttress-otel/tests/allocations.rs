//! Checks that a duration is recorded without an allocation.

use std::io;

use allocation_counter::measure;
use buttress::{Stack, retry::ReplayClones, telemetry::Registry};
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
use tokio::runtime::Builder;
use tower::{ServiceExt, service_fn};

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
    let registry = Registry::new();
    let reader = PeriodicReader::builder(InMemoryMetricExporter::default()).build();
    let provider = SdkMeterProvider::builder().with_reader(reader).build();
    buttress_otel::export(&registry, &provider.meter("buttress"));
    assert_eq!(allocations(&registry), allocations(&Registry::new()));
}
