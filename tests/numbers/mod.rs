//! The numbers of a registry, and their changes.
#![allow(dead_code, reason = "no test file needs all of it")]

use std::{cell::RefCell, collections::BTreeMap, fmt::Display};

use buttress::telemetry::{InstrumentKind, Registry};

/// A registry whose series are named by their instrument and the values of their attributes.
pub(crate) struct Numbers {
    pub(crate) registry: Registry,
    seen: RefCell<BTreeMap<String, f64>>,
}

impl Numbers {
    pub(crate) fn new() -> Self {
        Self { registry: Registry::new(), seen: RefCell::default() }
    }

    /// Returns the value of each series, or the number of durations of a histogram.
    pub(crate) fn all(&self) -> BTreeMap<String, f64> {
        let mut all = BTreeMap::new();
        for family in self.registry.gather() {
            for series in &family.series {
                let mut name = family.instrument.name.trim_start_matches("buttress.").to_owned();
                for (_, value) in &series.attributes {
                    name.push(' ');
                    name.push_str(value);
                }
                let known = all.insert(name.clone(), series.value.as_number());
                assert_eq!(known, None, "two series are {name}");
            }
        }
        all
    }

    pub(crate) fn get(&self, name: &str) -> f64 {
        *self.all().get(name).unwrap_or_else(|| panic!("no series is {name}"))
    }

    /// Returns the names of the counters and histograms that are zero.
    pub(crate) fn unreached(&self, prefix: &str) -> Vec<String> {
        let all = self.all().into_iter();
        all.filter(|(name, value)| *value == 0.0 && name.starts_with(prefix))
            .map(|it| it.0)
            .collect()
    }

    /// Returns the changes since the last time, as `name +1`, without those of calls and attempts.
    ///
    /// Each series must have been zero before its first change.
    #[track_caller]
    pub(crate) fn changes(&self) -> Vec<String> {
        let mut now = self.all();
        now.retain(|name, _| !name.starts_with("call.") && !name.starts_with("attempt.duration"));
        now.retain(|name, _| !name.starts_with("attempt.errors"));
        let before = self.seen.replace(now.clone());
        let mut changes = Vec::new();
        for (name, value) in now {
            let known = before.get(&name).copied();
            assert!(known.is_some() || value == 0.0 || before.is_empty(), "{name} began late");
            let change = value - known.unwrap_or(value);
            if change != 0.0 {
                changes.push(format!("{name} {change:+}"));
            }
        }
        changes
    }

    /// Checks the changes since the last time.
    #[track_caller]
    pub(crate) fn changed<T: Display>(&self, expected: impl IntoIterator<Item = T>) {
        let mut expected: Vec<_> = expected.into_iter().map(|it| it.to_string()).collect();
        expected.sort();
        assert_eq!(self.changes(), expected);
    }

    /// Returns the sum of all series of an instrument and some values of its first attributes.
    pub(crate) fn sum(&self, prefix: &str) -> f64 {
        let series = self.all().into_iter().filter(|(name, _)| name.starts_with(prefix));
        series.map(|(_, value)| value).sum()
    }

    /// Returns the sum of the durations of a histogram, in milliseconds.
    pub(crate) fn millis(&self, instrument: &str, value: &str) -> u128 {
        let families = self.registry.gather();
        let series = families.iter().filter(|family| family.instrument.name == instrument);
        let series = series.filter(|family| family.instrument.kind == InstrumentKind::Histogram);
        let mut sum = 0;
        for series in series.flat_map(|family| &family.series) {
            if series.attributes.iter().any(|(_, it)| it == value) {
                let buttress::telemetry::Value::Histogram(histogram) = &series.value else {
                    panic!("{instrument} is no histogram");
                };
                sum += histogram.sum().as_millis();
            }
        }
        sum
    }
}
