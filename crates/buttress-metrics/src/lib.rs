//! Gives the facade [`metrics`](mod@metrics) the numbers of [buttress](mod@buttress).
//!
//! ```
//! use buttress::{Stack, retry::ReplayClones, telemetry::Registry};
//! use buttress_metrics::Collector;
//!
//! # let client = tower::service_fn(|order: u32| async move { Ok::<_, std::io::Error>(order) });
//! let registry = Registry::new();
//! let orders = Stack::standard(ReplayClones).name("orders").register(&registry).service(client);
//!
//! let collector = Collector::new(&registry);
//! // Before each scrape, or in a task every few seconds.
//! collector.collect();
//! ```
//!
//! # Names
//!
//! The names and labels are those of [`CATALOGUE`](buttress::telemetry::CATALOGUE), with dots.
//! Exporters replace the dots if they must. With `metrics-exporter-prometheus`, call
//! `with_recommended_naming(true)` and `set_buckets(&buttress::telemetry::BUCKETS)`. Names and
//! buckets are then those of the documentation, and a histogram is no summary.
//!
//! # Recorders
//!
//! The recorder is looked up each time, so it can be installed after the layers and the collector.
//! Counters are whole even then. Durations that end before it is installed are lost, because the
//! facade cannot take a histogram that was counted elsewhere.
//!
//! A recorder has no way to end a series. When the last layer with its names is dropped, a gauge
//! becomes 0, a counter stays, and a later layer with these names adds to it. The events between
//! the last [`collect`](Collector::collect) and the drop are not counted.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use buttress::telemetry::{
    Event, Instrument, InstrumentKind, Interest, Observer, Registry, Series, Source,
};
use metrics::{Key, Label, Level, Metadata, Recorder, Unit, with_recorder};

use self::{cache::Cache, total::Total};

mod cache;
mod total;

pub use buttress;

/// Runs the examples of the README as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

static METADATA: Metadata<'static> =
    Metadata::new("buttress", Level::INFO, Some(env!("CARGO_PKG_NAME")));

/// A collector that gives the numbers of a registry to the recorder.
///
/// Create one for each registry. With a second one, each duration would be recorded twice.
#[derive(Debug)]
pub struct Collector {
    registry: Registry,
    given: Mutex<HashMap<Key, Given>>,
}

/// The last number that was given for a series.
#[derive(Debug)]
enum Given {
    Counter(Total),
    Gauge { is_current: bool },
}

impl Collector {
    /// Creates a collector, and records the durations that end from now on.
    pub fn new(registry: &Registry) -> Self {
        registry.observe(Durations { keys: Cache::default() });
        Self { registry: registry.clone(), given: Mutex::default() }
    }

    /// Gives the current numbers of all counters and gauges to the recorder.
    ///
    /// Call it before each scrape, or every few seconds. It takes some microseconds for each layer.
    pub fn collect(&self) {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock. Otherwise, numbers could be given after later ones, and a counter that
        // goes back is taken for that of another layer.
        let families = self.registry.gather();
        with_recorder(|recorder| {
            for family in &families {
                describe(recorder, family.instrument);
                for series in &family.series {
                    give(recorder, family.instrument, series, &mut given);
                }
            }
            given.retain(|key, given| given.is_kept(recorder, key));
        });
    }
}

fn describe(recorder: &dyn Recorder, instrument: &'static Instrument) {
    let unit = match instrument.unit {
        "s" => Some(Unit::Seconds),
        "1" => None,
        _ => Some(Unit::Count),
    };
    let (name, help) = (instrument.name.into(), instrument.help.into());
    match instrument.kind {
        InstrumentKind::Counter => recorder.describe_counter(name, unit, help),
        InstrumentKind::Histogram => recorder.describe_histogram(name, unit, help),
        _ => recorder.describe_gauge(name, unit, help),
    }
}

fn give(
    recorder: &dyn Recorder,
    instrument: &'static Instrument,
    series: &Series,
    given: &mut HashMap<Key, Given>,
) {
    let attributes = series.attributes.iter().map(|(key, value)| (*key, value.clone()));
    let key = key(instrument, attributes);
    let number = series.value.as_number();
    match instrument.kind {
        // Its durations come from the observer. This makes a series before the first one.
        InstrumentKind::Histogram => drop(recorder.register_histogram(&key, &METADATA)),
        InstrumentKind::Counter => {
            let counter = recorder.register_counter(&key, &METADATA);
            let given = given.entry(key).or_insert_with(|| Given::Counter(Total::default()));
            if let Given::Counter(total) = given {
                counter.absolute(total.advance(number as u64));
            }
        }
        _ => {
            recorder.register_gauge(&key, &METADATA).set(number);
            given.insert(key, Given::Gauge { is_current: true });
        }
    }
}

impl Given {
    /// Ends the series if it was not given in this collection. Returns `false` to forget it.
    fn is_kept(&mut self, recorder: &dyn Recorder, key: &Key) -> bool {
        match self {
            Self::Counter(total) => total.end_unless_advanced(),
            Self::Gauge { is_current } if !*is_current => {
                recorder.register_gauge(key, &METADATA).set(0.0);
                return false;
            }
            Self::Gauge { is_current } => *is_current = false,
        }
        true
    }
}

/// The observer that records durations.
struct Durations {
    keys: Cache<Key>,
}

impl Observer for Durations {
    fn on_event(&self, source: Source<'_>, event: &Event<'_>) {
        let Some((instrument, values, took)) = event.measured() else { return };
        let make = || key(instrument, source.attributes(instrument, &values)).to_retained();
        self.keys.with(&source, instrument, values, make, |key| {
            with_recorder(|recorder| recorder.register_histogram(key, &METADATA).record(took));
        });
    }

    fn interest(&self) -> Interest {
        Interest::All
    }
}

fn key<V: Into<metrics::SharedString>>(
    instrument: &'static Instrument,
    attributes: impl IntoIterator<Item = (&'static str, V)>,
) -> Key {
    let labels: Vec<_> =
        attributes.into_iter().map(|(key, value)| Label::new(key, value)).collect();
    Key::from_parts(instrument.name, labels)
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn a_gauge_that_is_not_given_any_more_becomes_zero_and_is_forgotten() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let key = Key::from_name("open");
        recorder.register_gauge(&key, &METADATA).set(1.0);
        let mut given = Given::Gauge { is_current: true };
        assert!(given.is_kept(&recorder, &key));
        assert!(recorder.handle().render().contains("open 1"));
        assert!(!given.is_kept(&recorder, &key));
        assert!(recorder.handle().render().contains("open 0"));
    }
}
