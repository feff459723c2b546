//! The three exporters show the same series and the same numbers.

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
    telemetry::{BUCKETS, CATALOGUE, Registry},
};
use buttress_metrics::Collector;
use metrics::set_default_local_recorder;
use metrics_exporter_prometheus::PrometheusBuilder;
use opentelemetry::{KeyValue, metrics::MeterProvider};
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, PeriodicReader, SdkMeterProvider,
    data::{AggregatedMetrics, MetricData},
};
use tower::{ServiceExt, service_fn};

/// Each series as Prometheus names it, with its labels in order, and its number.
type Seen = BTreeMap<(String, BTreeSet<String>), f64>;

/// Reads a text in the format 0.0.4 whose labels have no commas.
fn read(text: &str) -> Seen {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let series = lines.map(|line| {
        let (series, number) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
        ((name.to_owned(), labels.map(str::to_owned).collect()), number.parse().unwrap())
    });
    let all: Vec<_> = series.collect();
    let seen: Seen = all.iter().cloned().collect();
    assert_eq!(seen.len(), all.len(), "two equal series");
    seen
}

fn labels<'a>(attributes: impl Iterator<Item = &'a KeyValue>) -> BTreeSet<String> {
    attributes
        .map(|it| format!("{}=\"{}\"", it.key.as_str().replace('.', "_"), it.value.as_str()))
        .collect()
}

/// Reads what the SDK has collected, under the names of Prometheus.
fn read_otel(exporter: &InMemoryMetricExporter) -> Seen {
    let mut seen = Seen::new();
    let all = exporter.get_finished_metrics().unwrap();
    let all = all.last().unwrap();
    for metric in all.scope_metrics().flat_map(|scope| scope.metrics()) {
        let instrument = CATALOGUE.iter().find(|it| it.name == metric.name()).unwrap();
        let name = instrument.prometheus_name();
        let AggregatedMetrics::F64(data) = metric.data() else { panic!("{name}") };
        let mut put = |suffix: &str, labels, number| {
            seen.insert((format!("{name}{suffix}"), labels), number);
        };
        match data {
            MetricData::Sum(sum) => {
                sum.data_points().for_each(|it| put("", labels(it.attributes()), it.value()));
            }
            MetricData::Gauge(gauge) => {
                gauge.data_points().for_each(|it| put("", labels(it.attributes()), it.value()));
            }
            MetricData::Histogram(histogram) => {
                for point in histogram.data_points() {
                    let own = labels(point.attributes());
                    let mut sum = 0;
                    let bounds = point.bounds().map(|bound| bound.to_string());
                    let bounds = bounds.chain(["+Inf".to_owned()]);
                    for (bound, count) in bounds.zip(point.bucket_counts()) {
                        sum += count;
                        let mut labels = own.clone();
                        labels.insert(format!("le=\"{bound}\""));
                        put("_bucket", labels, sum as f64);
                    }
                    put("_count", own.clone(), point.count() as f64);
                    put("_sum", own, point.sum());
                }
            }
            MetricData::ExponentialHistogram(_) => panic!("{name}"),
        }
    }
    seen
}

fn assert_same(seen: &Seen, expected: &Seen) {
    let [seen_names, names]: [BTreeSet<_>; 2] = [seen, expected].map(|all| all.keys().collect());
    assert_eq!(seen_names, names);
    for (series, number) in expected {
        // They change with time alone, and the thread of the SDK has no paused clock.
        if series.0.contains("next_probe") || series.0.contains("state_duration") {
            continue;
        }
        assert!((seen[series] - number).abs() < 1e-9, "{series:?}: {} {number}", seen[series]);
    }
}

#[tokio::test(start_paused = true)]
async fn all_exporters_show_the_same_series_and_numbers() {
    let recorder = PrometheusBuilder::new().with_recommended_naming(true);
    let recorder = recorder.set_buckets(&BUCKETS).unwrap().build_recorder();
    let _guard = set_default_local_recorder(&recorder);
    let exporter = InMemoryMetricExporter::default();
    let reader = PeriodicReader::builder(exporter.clone()).build();
    let provider = SdkMeterProvider::builder().with_reader(reader).build();

    let registry = Registry::new();
    let collector = Collector::new(&registry);
    buttress_otel::export(&registry, &provider.meter("buttress"));

    let mut stacks = Vec::new();
    for name in ["orders", "orders", "", "quotes \" and lines \n"] {
        let broken = service_fn(|_: u32| async { Err::<u32, _>(io::Error::other("broken")) });
        let stack = Stack::standard(ReplayClones).name(name).register(&registry).service(broken);
        for _ in 0..10 {
            _ = stack.clone().oneshot(7).await;
        }
        stacks.push(stack);
    }
    let hangs = service_fn(|_: u32| pending::<Result<u32, io::Error>>());
    let bulkhead = BulkheadLayer::builder().max_concurrent(1).build().unwrap();
    let full = Stack::new().bulkhead(bulkhead).name("full").register(&registry).service(hangs);
    let mut first = pin!(full.clone().oneshot(1));
    tokio::select! {
        biased;
        _ = &mut first => unreachable!(),
        error = full.clone().oneshot(2) => { error.unwrap_err(); }
    }

    collector.collect();
    provider.force_flush().unwrap();
    let prometheus = read(&buttress_prometheus::render(&registry, None).1);
    let rejected = prometheus.iter().filter(|((name, labels), _)| {
        name == "buttress_rejections_total" && labels.contains("error_type=\"bulkhead_full\"")
    });
    assert_eq!(rejected.map(|(_, number)| number).sum::<f64>(), 1.0);

    assert_same(&read(&recorder.handle().render()), &prometheus);

    // OpenTelemetry has no series of a histogram before its first duration.
    let mut expected = prometheus.clone();
    expected.retain(|(name, labels), _| {
        let Some((name, _)) = name.rsplit_once('_') else { return true };
        let labels = labels.iter().filter(|label| !label.starts_with("le=\""));
        let count = (format!("{name}_count"), labels.cloned().collect());
        prometheus.get(&count).is_none_or(|count| *count > 0.0)
    });
    // The SDK keeps the characters that a text escapes.
    let seen = read_otel(&exporter).into_iter().map(|((name, labels), number)| {
        let escaped = |label: String| match label.split_once("=\"") {
            Some((key, value)) => {
                let value = value.strip_suffix('"').unwrap_or(value);
                format!("{key}=\"{}\"", value.replace('"', "\\\"").replace('\n', "\\n"))
            }
            None => label,
        };
        ((name, labels.into_iter().map(escaped).collect()), number)
    });
    assert_same(&seen.collect(), &expected);
    assert!(expected.keys().any(|(name, _)| name == "buttress_retry_delay_seconds_sum"));
}
