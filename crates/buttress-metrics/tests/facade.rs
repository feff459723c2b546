//! Checks with the exporter for Prometheus.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use buttress::{
    Stack,
    retry::ReplayClones,
    telemetry::{BUCKETS, InstrumentKind, Registry, Value},
};
use buttress_metrics::Collector;
use metrics::set_default_local_recorder;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use tokio::runtime::Builder;
use tower::{ServiceExt, service_fn};

/// Each series with its number. The labels are in order.
type Seen = BTreeMap<(String, BTreeSet<String>), f64>;

fn recorder() -> PrometheusRecorder {
    let prometheus = PrometheusBuilder::new().with_recommended_naming(true);
    prometheus.set_buckets(&BUCKETS).unwrap().build_recorder()
}

/// Reads a text without tricky labels.
fn read(text: &str) -> Seen {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let (series, number) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
            ((name.to_owned(), labels.map(str::to_owned).collect()), number.parse().unwrap())
        })
        .collect()
}

/// Returns the numbers of a registry as Prometheus shows them.
fn gathered(registry: &Registry) -> Seen {
    let mut seen = Seen::new();
    for family in registry.gather() {
        let name = family.instrument.prometheus_name();
        for series in family.series {
            let label = |(key, value): &(&str, _)| format!("{}=\"{value}\"", key.replace('.', "_"));
            let labels: BTreeSet<_> = series.attributes.iter().map(label).collect();
            let Value::Histogram(histogram) = &series.value else {
                seen.insert((name.clone(), labels), series.value.as_number());
                continue;
            };
            let mut sum = 0;
            for (bound, count) in histogram.buckets() {
                sum += count;
                let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
                let mut labels = labels.clone();
                labels.insert(format!("le=\"{bound}\""));
                seen.insert((format!("{name}_bucket"), labels), sum as f64);
            }
            seen.insert((format!("{name}_count"), labels.clone()), sum as f64);
            seen.insert((format!("{name}_sum"), labels), histogram.sum().as_secs_f64());
        }
    }
    seen
}

fn assert_same(seen: &Seen, expected: &Seen) {
    let names: [BTreeSet<_>; 2] = [seen, expected].map(|all| all.keys().collect());
    assert_eq!(names[0], names[1]);
    for (series, number) in expected {
        assert!((seen[series] - number).abs() < 1e-9, "{series:?}: {} {number}", seen[series]);
    }
}

/// Registers a stack whose calls are retried and fail, calls it, and returns it.
async fn orders(registry: &Registry, calls: u32) -> impl Sized + use<> {
    let broken = service_fn(|_: u32| async { Err::<u32, _>(io::Error::other("broken")) });
    let stack = Stack::standard(ReplayClones).name("orders").register(registry).service(broken);
    for _ in 0..calls {
        _ = stack.clone().oneshot(7).await;
    }
    stack
}

/// Returns the number of resends of so many calls.
async fn resends_of(calls: u32) -> f64 {
    let registry = Registry::new();
    let _stack = orders(&registry, calls).await;
    resends(&gathered(&registry))
}

fn resends(seen: &Seen) -> f64 {
    let mut all = seen.iter().filter(|((name, _), _)| name == "buttress_attempt_resends_total");
    all.next().unwrap().1.to_owned()
}

#[tokio::test(start_paused = true)]
async fn every_series_arrives_with_the_name_and_number_of_the_registry() {
    let recorder = recorder();
    let _guard = set_default_local_recorder(&recorder);
    let registry = Registry::new();
    let collector = Collector::new(&registry);
    let mut stacks = Vec::new();
    for _ in 0..2 {
        stacks.push(orders(&registry, 5).await);
        collector.collect();
        let seen = read(&recorder.handle().render());
        assert_same(&seen, &gathered(&registry));
        assert!(resends(&seen) > 0.0);
    }
}

#[tokio::test(start_paused = true)]
async fn series_exist_at_zero_before_their_first_event() {
    let recorder = recorder();
    let _guard = set_default_local_recorder(&recorder);
    let registry = Registry::new();
    let client = service_fn(|x: u32| async move { Ok::<_, io::Error>(x) });
    let _stack = Stack::standard(ReplayClones).name("orders").register(&registry).service(client);
    Collector::new(&registry).collect();
    let seen = read(&recorder.handle().render());
    assert_same(&seen, &gathered(&registry));
    let ones = seen.iter().filter(|(_, number)| **number != 0.0);
    let names: BTreeSet<_> = ones.map(|((name, _), _)| name.as_str()).collect();
    assert!(!names.iter().any(|name| name.ends_with("_total")), "{names:?}");
}

#[tokio::test(start_paused = true)]
async fn a_counter_goes_on_when_its_layer_is_replaced() {
    let recorder = recorder();
    let _guard = set_default_local_recorder(&recorder);
    let registry = Registry::new();
    let collector = Collector::new(&registry);
    let mut total = 0.0;
    for (calls, collects_between) in [(4, true), (6, false), (2, true), (8, true)] {
        let stack = orders(&registry, calls).await;
        collector.collect();
        let seen = resends(&read(&recorder.handle().render()));
        total += resends_of(calls).await;
        assert_eq!(seen, total);
        drop(stack);
        if collects_between {
            collector.collect();
            assert_eq!(resends(&read(&recorder.handle().render())), total);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn gauges_of_a_dropped_layer_become_zero() {
    let recorder = recorder();
    let _guard = set_default_local_recorder(&recorder);
    let registry = Registry::new();
    let collector = Collector::new(&registry);
    let is_gauge = |name: &str| {
        let all = buttress::telemetry::CATALOGUE.iter();
        let mut gauges = all
            .filter(|it| !matches!(it.kind, InstrumentKind::Counter | InstrumentKind::Histogram));
        gauges.any(|it| it.prometheus_name() == name)
    };
    let stack = orders(&registry, 5).await;
    collector.collect();
    drop(stack);
    collector.collect();
    for ((name, labels), number) in read(&recorder.handle().render()) {
        let is_of_orders = labels.contains("buttress_stack=\"orders\"");
        assert!(!is_of_orders || !is_gauge(&name) || number == 0.0, "{name} {number}");
    }
}

#[test]
fn a_counter_is_whole_if_several_scrapes_collect_at_the_same_time() {
    let recorder = recorder();
    let registry = Registry::new();
    let collector = Collector::new(&registry);
    let client = service_fn(|x: u32| async move { Ok::<_, io::Error>(x) });
    let stack = Stack::standard(ReplayClones).name("orders").register(&registry).service(client);
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let _guard = set_default_local_recorder(&recorder);
                while !is_over.load(Ordering::Relaxed) {
                    collector.collect();
                }
            });
        }
        for _ in 0..2_000 {
            runtime.block_on(stack.clone().oneshot(7)).unwrap();
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let _guard = set_default_local_recorder(&recorder);
    collector.collect();
    let seen = read(&recorder.handle().render());
    let calls = seen.iter().filter(|((name, _), _)| name == "buttress_retry_calls_total");
    assert_eq!(calls.map(|(_, number)| number).sum::<f64>(), 2_000.0);
}
