//! Checks with the SDK and its exporter into memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    io,
    pin::pin,
};

use buttress::{
    Stack,
    bulkhead::BulkheadLayer,
    retry::ReplayClones,
    telemetry::{BUCKETS, CATALOGUE, Instrument, InstrumentKind, Registry, Value},
};
use opentelemetry::{KeyValue, metrics::MeterProvider};
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, InMemoryMetricExporterBuilder, PeriodicReader, SdkMeterProvider,
    Temporality,
    data::{AggregatedMetrics, MetricData},
};
use tower::{ServiceExt, service_fn};

/// The attributes of a series, by name.
type Attributes = BTreeMap<String, String>;
/// Each series with its number, or for a histogram its counts.
type Seen = BTreeMap<(String, Attributes), Vec<f64>>;

struct Collected {
    provider: SdkMeterProvider,
    exporter: InMemoryMetricExporter,
}

impl Collected {
    fn new() -> Self {
        Self::with(Temporality::Cumulative)
    }

    fn with(temporality: Temporality) -> Self {
        let exporter = InMemoryMetricExporterBuilder::new().with_temporality(temporality).build();
        let reader = PeriodicReader::builder(exporter.clone()).build();
        Self { provider: SdkMeterProvider::builder().with_reader(reader).build(), exporter }
    }

    /// Collects once.
    fn collect(&self) -> Seen {
        self.exporter.reset();
        self.provider.force_flush().unwrap();
        let all = self.exporter.get_finished_metrics().unwrap();
        let mut seen = Seen::new();
        for metric in all.iter().flat_map(|all| all.scope_metrics()).flat_map(|it| it.metrics()) {
            let instrument = CATALOGUE.iter().find(|it| it.name == metric.name()).unwrap();
            assert_eq!((metric.unit(), metric.description()), (instrument.unit, instrument.help));
            if is_time(instrument) {
                continue;
            }
            let AggregatedMetrics::F64(data) = metric.data() else { panic!("{}", metric.name()) };
            let mut put = |attributes: Attributes, numbers| {
                let known = seen.insert((metric.name().to_owned(), attributes), numbers);
                assert_eq!(known, None, "two equal series");
            };
            match data {
                MetricData::Sum(sum) => {
                    for point in sum.data_points() {
                        put(attributes(point.attributes()), vec![point.value()]);
                    }
                }
                MetricData::Gauge(gauge) => {
                    for point in gauge.data_points() {
                        put(attributes(point.attributes()), vec![point.value()]);
                    }
                }
                MetricData::Histogram(histogram) => {
                    for point in histogram.data_points() {
                        assert!(point.bounds().eq(BUCKETS));
                        let counts = point.bucket_counts().map(|count| count as f64);
                        let sum = (point.sum() * 1e9).round();
                        put(attributes(point.attributes()), counts.chain([sum]).collect());
                    }
                }
                MetricData::ExponentialHistogram(_) => panic!("no fixed bounds"),
            }
        }
        seen
    }
}

/// Returns `true` for a time that goes on. The thread of the reader has a clock that is not paused.
fn is_time(instrument: &Instrument) -> bool {
    instrument.unit == "s" && instrument.kind != InstrumentKind::Histogram
}

/// Returns `true` for the name of a histogram.
fn is_histogram(name: &str) -> bool {
    CATALOGUE.iter().any(|it| it.name == name && it.kind == InstrumentKind::Histogram)
}

fn attributes<'a>(attributes: impl Iterator<Item = &'a KeyValue>) -> Attributes {
    attributes.map(|it| (it.key.to_string(), it.value.to_string())).collect()
}

/// Returns the numbers of a registry, except those of histograms without a duration.
fn gathered(registry: &Registry) -> Seen {
    let mut seen = Seen::new();
    for family in registry.gather() {
        for series in family.series {
            if is_time(family.instrument) {
                continue;
            }
            let attributes = series.attributes.into_iter();
            let attributes = attributes.map(|(key, value)| (key.to_owned(), value.into_owned()));
            let numbers = match &series.value {
                Value::Histogram(histogram) if histogram.count() == 0 => continue,
                Value::Histogram(histogram) => {
                    let counts = histogram.buckets().map(|(_, count)| count as f64);
                    counts.chain([histogram.sum().as_nanos() as f64]).collect()
                }
                value => vec![value.as_number()],
            };
            seen.insert((family.instrument.name.to_owned(), attributes.collect()), numbers);
        }
    }
    seen
}

/// Registers a stack whose calls are retried and fail, calls it, and returns it.
async fn orders(registry: &Registry, name: &str) -> impl Sized + use<> {
    calls(registry, name, 20).await
}

async fn calls(registry: &Registry, name: &str, count: u32) -> impl Sized + use<> {
    let broken = service_fn(|_: u32| async { Err::<u32, _>(io::Error::other("broken")) });
    let stack = Stack::standard(ReplayClones).name(name).register(registry).service(broken);
    for _ in 0..count {
        _ = stack.clone().oneshot(7).await;
    }
    stack
}

#[tokio::test(start_paused = true)]
async fn every_series_of_the_registry_arrives_with_the_same_number() {
    let registry = Registry::new();
    let collected = Collected::new();
    buttress_otel::export(&registry, &collected.provider.meter("buttress"));
    let _stacks = [orders(&registry, "orders").await, orders(&registry, "a \"b\"\n").await];
    let hangs = service_fn(|_: u32| pending::<Result<u32, io::Error>>());
    let bulkhead = BulkheadLayer::builder().max_concurrent(1).build().unwrap();
    let full = Stack::new().bulkhead(bulkhead).name("full").register(&registry).service(hangs);
    let mut first = pin!(full.clone().oneshot(1));
    tokio::select! {
        biased;
        _ = &mut first => unreachable!(),
        error = full.clone().oneshot(2) => { error.unwrap_err(); }
    }
    for _ in 0..2 {
        let (seen, expected) = (collected.collect(), gathered(&registry));
        assert_eq!(seen, expected);
        let names: BTreeSet<_> = seen.keys().map(|(name, _)| name.as_str()).collect();
        for name in ["buttress.retry.delay", "buttress.rejections", "buttress.info"] {
            assert!(names.contains(name), "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_counter_is_zero_before_its_first_event() {
    let registry = Registry::new();
    let collected = Collected::new();
    buttress_otel::export(&registry, &collected.provider.meter("buttress"));
    let client = service_fn(|x: u32| async move { Ok::<_, io::Error>(x) });
    let _stack = Stack::standard(ReplayClones).name("orders").register(&registry).service(client);
    let seen = collected.collect();
    let rejections = seen.iter().filter(|((name, _), _)| name == "buttress.rejections");
    let numbers: Vec<_> = rejections.map(|(_, numbers)| numbers[0]).collect();
    assert!(numbers.len() > 3 && numbers.iter().all(|number| *number == 0.0), "{numbers:?}");
}

#[tokio::test(start_paused = true)]
async fn numbers_of_a_dropped_layer_end() {
    let registry = Registry::new();
    let collected = Collected::new();
    buttress_otel::export(&registry, &collected.provider.meter("buttress"));
    let stack = orders(&registry, "orders").await;
    let is_of_orders = |(_, attributes): &(String, Attributes)| {
        attributes.get("buttress.stack").is_some_and(|stack| stack == "orders")
    };
    assert!(collected.collect().keys().any(is_of_orders));
    drop(stack);
    let rest = collected.collect();
    // OpenTelemetry keeps the durations that it was given.
    let rest: BTreeSet<_> = rest.keys().filter(|it| is_of_orders(it)).map(|it| &it.0).collect();
    assert!(rest.iter().all(|name| is_histogram(name)), "{rest:?}");
}

#[tokio::test(start_paused = true)]
async fn counters_are_whole_if_the_provider_comes_late() {
    let registry = Registry::new();
    let _stack = orders(&registry, "orders").await;
    let collected = Collected::new();
    opentelemetry::global::set_meter_provider(collected.provider.clone());
    buttress_otel::export(&registry, &opentelemetry::global::meter("buttress"));
    let mut expected = gathered(&registry);
    expected.retain(|(name, _), _| !is_histogram(name));
    assert_eq!(collected.collect(), expected);
    // Later durations arrive too.
    let _more = orders(&registry, "orders").await;
    assert!(collected.collect().keys().any(|(name, _)| name == "buttress.retry.delay"));
}

#[tokio::test(start_paused = true)]
async fn two_readers_both_have_the_latest_numbers() {
    let registry = Registry::new();
    let readers = [Collected::new(), Collected::new()];
    for collected in &readers {
        buttress_otel::export(&registry, &collected.provider.meter("buttress"));
    }
    let mut stacks = Vec::new();
    for _ in 0..3 {
        stacks.push(orders(&registry, "orders").await);
        let expected = gathered(&registry);
        for collected in &readers {
            assert_eq!(collected.collect(), expected);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_difference_is_negative_when_a_layer_is_replaced() {
    let registry = Registry::new();
    let collected = Collected::with(Temporality::Delta);
    buttress_otel::export(&registry, &collected.provider.meter("buttress"));
    let resends = |seen: &Seen| {
        let mut all = seen.iter().filter(|((name, _), _)| name == "buttress.attempt.resends");
        all.next().map(|(_, numbers)| numbers[0])
    };
    for (count, collects_between) in [(6, false), (3, false), (1, true), (6, true), (2, false)] {
        let alone = Registry::new();
        let _same = calls(&alone, "orders", count).await;
        let stack = calls(&registry, "orders", count).await;
        assert_eq!(resends(&collected.collect()), resends(&gathered(&alone)), "{count}");
        drop(stack);
        if collects_between {
            assert_eq!(resends(&collected.collect()), None);
        }
    }
}
