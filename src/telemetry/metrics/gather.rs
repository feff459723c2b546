//! The gathering of all numbers into families.

use std::borrow::Cow;

use super::{
    family::{Family, Series, Value},
    instrument::{CATALOGUE, Instrument},
};

/// The families of a reading that is under way, in the order of the catalogue.
pub(super) struct Gatherer {
    families: Vec<Family>,
}

impl Gatherer {
    pub(super) fn new() -> Self {
        let family = |instrument: &&'static Instrument| Family { instrument, series: Vec::new() };
        Self { families: CATALOGUE.iter().map(family).collect() }
    }

    pub(super) fn put(
        &mut self,
        instrument: &'static Instrument,
        attributes: Vec<(&'static str, Cow<'static, str>)>,
        value: Value,
    ) {
        let family =
            self.families.iter_mut().find(|family| std::ptr::eq(family.instrument, instrument));
        if let Some(family) = family {
            family.series.push(Series { attributes, value });
        }
    }

    /// Returns the families that have a series.
    pub(super) fn finish(mut self) -> Vec<Family> {
        self.families.retain(|family| !family.series.is_empty());
        for family in &mut self.families {
            family.series.sort_by(|a, b| a.attributes.cmp(&b.attributes));
        }
        self.families
    }
}
