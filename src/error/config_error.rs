//! The error of an invalid setting.

use std::{fmt, time::Duration};

/// A setting that cannot work: which knob, what it was given, and the rule it breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{knob}` is {value}, but {rule}")]
pub struct ConfigError {
    knob: &'static str,
    value: String,
    rule: &'static str,
}

impl ConfigError {
    pub(crate) fn new(knob: &'static str, value: impl fmt::Debug, rule: &'static str) -> Self {
        Self { knob, value: format!("{value:?}"), rule }
    }

    /// Returns the name of the setter that was called, or of the parameter that a constructor took.
    pub fn knob(&self) -> &str {
        self.knob
    }

    /// What it was given.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// The rule that the value breaks.
    pub fn rule(&self) -> &str {
        self.rule
    }

    /// Rejects a duration of zero.
    pub(crate) fn unless_positive(knob: &'static str, value: Duration) -> Result<Duration, Self> {
        if value.is_zero() {
            return Err(Self::new(knob, value, "it must be longer than zero"));
        }
        Ok(value)
    }

    /// Rejects a count of none.
    pub(crate) fn unless_counting(knob: &'static str, value: u32) -> Result<u32, Self> {
        if value == 0 {
            return Err(Self::new(knob, value, "it must be at least 1"));
        }
        Ok(value)
    }

    /// Rejects what is not a share of a whole, NaN included.
    pub(crate) fn unless_ratio(knob: &'static str, value: f64) -> Result<f64, Self> {
        if !(0.0..=1.0).contains(&value) {
            return Err(Self::new(knob, value, "it must be a ratio between 0 and 1"));
        }
        Ok(value)
    }
}
