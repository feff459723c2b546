//! The numbers of a registry, read once in a collection.

use std::{
    borrow::Cow,
    collections::HashMap,
    ptr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use buttress::telemetry::{Family, Instrument, InstrumentKind, Registry, Value};
use opentelemetry::{KeyValue, metrics::AsyncInstrument};

/// The age at which numbers are read again, even if an instrument has not had them.
const OLD: Duration = Duration::from_secs(1);

/// The numbers of a registry, for the callbacks of all instruments.
///
/// A collection asks for each instrument once, and OpenTelemetry does not say when it begins. The
/// numbers are therefore read when an instrument is asked for again. With two readers at the same
/// time, that happens more often than is needed.
#[derive(Clone)]
pub(super) struct Readings {
    registry: Registry,
    last: Arc<Mutex<Reading>>,
}

#[derive(Default)]
struct Reading {
    families: Vec<Family>,
    at: Option<Instant>,
    /// The instruments that have had these numbers.
    told: Vec<&'static str>,
    totals: HashMap<Counter, Total>,
}

/// The name and the attributes of a counter.
type Counter = (&'static str, Vec<(&'static str, Cow<'static, str>)>);

/// The total of a counter over the layers that had its names without a collection in between.
///
/// The numbers of a registry begin at 0 when a layer is replaced. The SDK would export a negative
/// difference, if it exports differences.
#[derive(Default)]
struct Total {
    before: f64,
    last: f64,
    is_current: bool,
}

impl Reading {
    /// Reads the registry again.
    fn read(&mut self, registry: &Registry) {
        self.families = registry.gather();
        self.at = Some(Instant::now());
        self.told.clear();
        self.totals.values_mut().for_each(|total| total.is_current = false);
        for family in &mut self.families {
            if family.instrument.kind != InstrumentKind::Counter {
                continue;
            }
            for series in &mut family.series {
                let counter = (family.instrument.name, series.attributes.clone());
                let total = self.totals.entry(counter).or_default();
                let number = series.value.as_number();
                if number < total.last {
                    total.before += total.last;
                }
                (total.last, total.is_current) = (number, true);
                series.value = Value::Number(total.before + number);
            }
        }
        // The SDK forgets a series that is missing once, and expects it to begin at 0 then.
        self.totals.retain(|_, total| total.is_current);
    }
}

impl Readings {
    pub(super) fn new(registry: &Registry) -> Self {
        Self { registry: registry.clone(), last: Arc::default() }
    }

    /// Tells an instrument its numbers.
    pub(super) fn observe(&self, instrument: &'static Instrument, to: &dyn AsyncInstrument<f64>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = last.at.is_none_or(|at| at.elapsed() > OLD);
        if is_old || last.told.contains(&instrument.name) {
            last.read(&self.registry);
        }
        last.told.push(instrument.name);
        let family = last.families.iter().find(|it| ptr::eq(it.instrument, instrument));
        for series in family.into_iter().flat_map(|family| &family.series) {
            let attributes = series.attributes.iter();
            let attributes = key_values(attributes.map(|(key, value)| (*key, value.clone())));
            to.observe(series.value.as_number(), &attributes);
        }
    }
}

/// Returns attributes as OpenTelemetry has them.
pub(super) fn key_values<V: Into<opentelemetry::Value>>(
    attributes: impl IntoIterator<Item = (&'static str, V)>,
) -> Vec<KeyValue> {
    attributes.into_iter().map(|(key, value)| KeyValue::new(key, value)).collect()
}

#[cfg(test)]
mod tests {
    use buttress::{Stack, retry::ReplayClones, telemetry::CATALOGUE};
    use std::io;
    use tower::{ServiceExt, service_fn};

    use super::*;

    /// The sum of the numbers that an instrument is told.
    #[derive(Default)]
    struct Sum(Mutex<f64>);

    impl AsyncInstrument<f64> for Sum {
        fn observe(&self, value: f64, _: &[KeyValue]) {
            *self.0.lock().unwrap() += value;
        }
    }

    fn told(readings: &Readings, name: &str) -> f64 {
        let instrument = CATALOGUE.iter().find(|it| it.name == name).unwrap();
        let sum = Sum::default();
        readings.observe(instrument, &sum);
        sum.0.into_inner().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_collection_reads_the_registry_once() {
        let registry = Registry::new();
        let broken = service_fn(|_: u32| async { Err::<u32, _>(io::Error::other("broken")) });
        let stack =
            Stack::standard(ReplayClones).name("orders").register(&registry).service(broken);
        let readings = Readings::new(&registry);
        let (resends, ended) = ("buttress.attempt.resends", "buttress.retry.ended");
        assert_eq!(told(&readings, resends), 0.0);
        stack.clone().oneshot(7).await.unwrap_err();
        // The same collection goes on, and does not see the end of a call whose resends it missed.
        assert_eq!(told(&readings, ended), 0.0);
        assert!(told(&readings, resends) > 0.0);
        assert_eq!(told(&readings, ended), 1.0);
    }
}
