//! Shows Prometheus the metrics of [buttress](mod@buttress).
//!
//! The numbers are read from a [`Registry`] when Prometheus asks for them. Nothing happens in
//! between, and calls through a stack cost nothing more than without this crate.
//!
//! ```
//! use buttress::{Stack, retry::ReplayClones, telemetry::Registry};
//!
//! # let client = tower::service_fn(|order: u32| async move { Ok::<_, std::io::Error>(order) });
//! let registry = Registry::new();
//! let orders = Stack::standard(ReplayClones).name("orders").register(&registry).service(client);
//!
//! let mut metrics = prometheus_client::registry::Registry::default();
//! metrics.register_collector(Box::new(buttress_prometheus::collector(&registry)));
//! # let mut text = String::new();
//! # prometheus_client::encoding::text::encode(&mut text, &metrics).unwrap();
//! # assert!(text.contains("buttress_retry_calls_total{"));
//! ```
//!
//! A program without a registry of `prometheus_client` uses [`render`].
//!
//! # Names
//!
//! The names are those of [`Instrument::prometheus_name`]. The labels are the attributes, with an
//! underscore for each dot, such as `buttress_stack`. A label can have any characters.
//!
//! ```text
//! buttress_retry_delay_seconds_count{buttress_stack="orders",buttress_layer="orders"} 3
//! ```
//!
//! No two series are equal, whatever the names of layers are. A state is one series of 0 or 1 for
//! each state, because the text format 0.0.4 has no sets of states.
//!
//! Two registries of buttress can have equal series. Register only one of them in the registry of
//! `prometheus_client`, or give each a label with `sub_registry_with_label`.
//!
//! # Exemplars
//!
//! There are none. The registry counts durations without the trace that they belong to, and a
//! collector cannot create an exemplar of `prometheus_client` 0.26.

use std::fmt;

use buttress::telemetry::{Family, Instrument, InstrumentKind, Registry, Series, Value};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet, prometheus_text, text},
    metrics::MetricType,
    registry::Unit,
};

mod accept;

pub use buttress;

/// Runs the examples of the README as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

/// Returns a collector that reads the numbers of a registry at each scrape.
///
/// ```
/// let registry = buttress::telemetry::Registry::new();
/// let mut metrics = prometheus_client::registry::Registry::default();
/// metrics.register_collector(Box::new(buttress_prometheus::collector(&registry)));
/// ```
pub fn collector(registry: &Registry) -> impl Collector + use<> {
    RegistryCollector(registry.clone())
}

/// Returns the content type and the text of all metrics, for a response to Prometheus.
///
/// `accept` is the header `Accept` of the request. The text is in the OpenMetrics format 1.0.0 if
/// the client prefers it, and otherwise in the text format 0.0.4 of Prometheus, which every client
/// reads.
///
/// ```
/// let registry = buttress::telemetry::Registry::new();
/// let (content_type, body) = buttress_prometheus::render(&registry, None);
/// assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8");
/// assert!(body.contains("# TYPE buttress_observer_panics_total counter"));
/// ```
pub fn render(registry: &Registry, accept: Option<&str>) -> (&'static str, String) {
    let mut metrics = prometheus_client::registry::Registry::default();
    metrics.register_collector(Box::new(collector(registry)));
    let mut body = String::new();
    let (content_type, written) = if accept.is_some_and(accept::prefers_open_metrics) {
        let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        (content_type, text::encode(&mut body, &metrics))
    } else {
        (prometheus_text::CONTENT_TYPE, prometheus_text::encode(&mut body, &metrics))
    };
    written.expect("a string takes any text");
    (content_type, body)
}

#[derive(Debug)]
struct RegistryCollector(Registry);

impl Collector for RegistryCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.gather().iter().try_for_each(|family| encode(family, &mut encoder))
    }
}

fn encode(family: &Family, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let instrument = family.instrument;
    let (name, unit) = name_and_unit(instrument);
    let kind = match instrument.kind {
        InstrumentKind::Counter => MetricType::Counter,
        InstrumentKind::Histogram => MetricType::Histogram,
        _ => MetricType::Gauge,
    };
    let mut encoder = encoder.encode_descriptor(&name, instrument.help, unit.as_ref(), kind)?;
    for series in &family.series {
        let labels = labels(series);
        let mut encoder = encoder.encode_family(&labels)?;
        match &series.value {
            Value::Histogram(histogram) => {
                let buckets: Vec<_> = histogram.buckets().collect();
                let (sum, count) = (histogram.sum().as_secs_f64(), histogram.count());
                encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
            Value::Number(number) if instrument.kind == InstrumentKind::Counter => {
                encoder.encode_counter::<NoLabelSet, _, f64>(&(*number as u64), None)?;
            }
            value => encoder.encode_gauge(&value.as_number())?,
        }
    }
    Ok(())
}

/// Returns the name without the suffix that the encoder adds.
fn name_and_unit(instrument: &Instrument) -> (String, Option<Unit>) {
    let (suffix, unit) = match (instrument.kind, instrument.unit) {
        (InstrumentKind::Counter, _) => ("_total", None),
        (_, "s") => ("_seconds", Some(Unit::Seconds)),
        // As OpenTelemetry names it. `Unit::Ratios` is in the plural.
        (_, "1") => ("_ratio", Some(Unit::Other("ratio".to_owned()))),
        _ => ("", None),
    };
    let name = instrument.prometheus_name();
    (name.strip_suffix(suffix).unwrap_or(&name).to_owned(), unit)
}

fn labels(series: &Series) -> Vec<(String, &str)> {
    series.attributes.iter().map(|(key, value)| (key.replace('.', "_"), &**value)).collect()
}

#[cfg(test)]
mod tests {
    use buttress::telemetry::CATALOGUE;

    use super::*;

    #[test]
    fn the_name_with_its_suffixes_is_that_of_the_catalogue() {
        for instrument in CATALOGUE {
            let (mut name, unit) = name_and_unit(instrument);
            if let Some(unit) = unit {
                name = format!("{name}_{}", unit.as_str());
            }
            if instrument.kind == InstrumentKind::Counter {
                name.push_str("_total");
            }
            assert_eq!(name, instrument.prometheus_name());
        }
    }
}
