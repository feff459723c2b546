//! Gives OpenTelemetry the metrics of [buttress](mod@buttress).
//!
//! ```
//! use buttress::{Stack, retry::ReplayClones, telemetry::Registry};
//! use opentelemetry::metrics::MeterProvider;
//!
//! # let client = tower::service_fn(|order: u32| async move { Ok::<_, std::io::Error>(order) });
//! # let provider = opentelemetry_sdk::metrics::SdkMeterProvider::builder().build();
//! let registry = Registry::new();
//! let orders = Stack::standard(ReplayClones).name("orders").register(&registry).service(client);
//!
//! buttress_otel::export(&registry, &provider.meter("buttress"));
//! ```
//!
//! # Instruments
//!
//! The names, units and attributes are those of [`CATALOGUE`].
//!
//! | in the catalogue | in OpenTelemetry |
//! |---|---|
//! | [`Counter`](InstrumentKind::Counter) | observable counter |
//! | [`Gauge`](InstrumentKind::Gauge), whose equal series add up | observable up-down counter |
//! | [`MaxGauge`](InstrumentKind::MaxGauge), [`MinGauge`](InstrumentKind::MinGauge) | observable gauge |
//! | [`Histogram`](InstrumentKind::Histogram) | histogram with the bounds [`BUCKETS`] |
//!
//! Counters and gauges are read from the registry once in each collection, and calls do not wait
//! for it. They are whole even if [`export`] is called long after the first call. Their series end
//! with the last layer that has their names.
//!
//! OpenTelemetry cannot read a histogram. An observer therefore records each duration when it ends.
//! A histogram has the durations since [`export`], has no series before its first duration, and
//! keeps its series when a layer is dropped. Each call and each attempt then costs one record of
//! the SDK. Its attributes are made once for each series.
//!
//! # Late providers
//!
//! A [`Meter`] of `opentelemetry::global` is deaf for ever if it was made before
//! `set_meter_provider`. Call [`export`] after it. Layers can be built and used before.

use std::ptr;

use buttress::telemetry::{
    BUCKETS, CATALOGUE, Event, Instrument, InstrumentKind, Interest, Observer, Registry, Source,
};
use opentelemetry::{
    KeyValue,
    metrics::{AsyncInstrument, Histogram, Meter},
};

use self::{
    cache::Cache,
    readings::{Readings, key_values},
};

mod cache;
mod readings;

pub use buttress;

/// Runs the examples of the README as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

/// Exports all numbers of a registry through a meter from now on.
///
/// Call it once for each registry and meter. A second call with the same meter would record each
/// duration twice.
///
/// ```
/// use buttress::telemetry::Registry;
///
/// // After `set_meter_provider`.
/// buttress_otel::export(Registry::global(), &opentelemetry::global::meter("buttress"));
/// ```
pub fn export(registry: &Registry, meter: &Meter) {
    let readings = Readings::new(registry);
    let mut histograms = Vec::new();
    for instrument in CATALOGUE.iter().copied() {
        let Instrument { name, unit, help, .. } = *instrument;
        let readings = readings.clone();
        let observe = move |to: &dyn AsyncInstrument<f64>| readings.observe(instrument, to);
        match instrument.kind {
            InstrumentKind::Histogram => {
                let builder = meter.f64_histogram(name).with_unit(unit).with_description(help);
                histograms.push((instrument, builder.with_boundaries(BUCKETS.to_vec()).build()));
            }
            InstrumentKind::Counter => {
                let builder = meter.f64_observable_counter(name).with_unit(unit);
                builder.with_description(help).with_callback(observe).build();
            }
            InstrumentKind::Gauge => {
                let builder = meter.f64_observable_up_down_counter(name).with_unit(unit);
                builder.with_description(help).with_callback(observe).build();
            }
            _ => {
                let builder = meter.f64_observable_gauge(name).with_unit(unit);
                builder.with_description(help).with_callback(observe).build();
            }
        }
    }
    registry.observe(Durations { histograms, attributes: Cache::default() });
}

/// The observer that records durations.
struct Durations {
    histograms: Vec<(&'static Instrument, Histogram<f64>)>,
    attributes: Cache<Vec<KeyValue>>,
}

impl Observer for Durations {
    fn on_event(&self, source: Source<'_>, event: &Event<'_>) {
        let Some((instrument, values, took)) = event.measured() else { return };
        let mut histograms = self.histograms.iter();
        let Some((_, histogram)) = histograms.find(|(it, _)| ptr::eq(*it, instrument)) else {
            return;
        };
        let make = || key_values(source.attributes(instrument, &values));
        self.attributes.with(&source, instrument, values, make, |attributes| {
            histogram.record(took.as_secs_f64(), attributes);
        });
    }

    fn interest(&self) -> Interest {
        Interest::All
    }
}
