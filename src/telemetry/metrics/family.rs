//! The numbers of a registry, as exporters read them.

use std::borrow::Cow;

use super::{histogram::HistogramSnapshot, instrument::Instrument};

/// All series of one instrument.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Family {
    /// The instrument.
    pub instrument: &'static Instrument,
    /// The series. No two have the same attributes.
    pub series: Vec<Series>,
}

/// The value of an instrument for one combination of attributes.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Series {
    /// The attributes and their values, in the order of [`Instrument::attributes`].
    ///
    /// An attribute that does not apply is left out. A name of a layer can have any characters.
    pub attributes: Vec<(&'static str, Cow<'static, str>)>,
    /// The value.
    pub value: Value,
}

impl Series {
    /// Returns the value of an attribute, if the series has it.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| *key == name).map(|(_, value)| &**value)
    }
}

/// The value of a series.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// The value of a counter or a gauge.
    Number(f64),
    /// The value of a histogram.
    Histogram(Box<HistogramSnapshot>),
}

impl Value {
    /// Returns the number, or for a histogram the number of its durations.
    pub fn as_number(&self) -> f64 {
        match self {
            Self::Number(number) => *number,
            Self::Histogram(histogram) => histogram.count() as f64,
        }
    }
}
