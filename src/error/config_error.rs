//! The error of an invalid setting.

use std::{fmt, time::Duration};

/// The error of an invalid setting, with the setter, its value and the rule that the value breaks.
///
/// Every builder of this crate returns it. Your own layer or store can return it too:
///
/// ```
/// use buttress::ConfigError;
/// use std::time::Duration;
///
/// /// Checks the settings of a rate limiter.
/// fn check(timeout: Duration, burst: u32, share: f64) -> Result<(), ConfigError> {
///     ConfigError::require_positive("timeout", timeout)?;
///     ConfigError::require_nonzero("burst", burst)?;
///     ConfigError::require_ratio("share", share)?;
///     if burst > 1_000 {
///         return Err(ConfigError::new("burst", burst, "it must not be larger than 1000"));
///     }
///     Ok(())
/// }
///
/// let error = check(Duration::from_secs(1), 0, 0.5).unwrap_err();
/// assert_eq!(error.to_string(), "`burst` is 0, but it must be at least 1");
/// assert_eq!(error.knob(), "burst");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{knob}` is {value}, but {rule}")]
pub struct ConfigError {
    knob: &'static str,
    value: String,
    rule: &'static str,
}

impl ConfigError {
    /// Creates the error of a setter whose value breaks a rule.
    ///
    /// `knob` is the name of the setter. `rule` completes the sentence "`burst` is 0, but ..".
    pub fn new(knob: &'static str, value: impl fmt::Debug, rule: &'static str) -> Self {
        Self { knob, value: format!("{value:?}"), rule }
    }

    /// Returns the name of the setter or constructor parameter.
    pub fn knob(&self) -> &str {
        self.knob
    }

    /// Returns the invalid value, formatted with `Debug`.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Returns the rule that the value breaks.
    pub fn rule(&self) -> &str {
        self.rule
    }

    /// Returns the duration if it is longer than zero.
    ///
    /// # Errors
    ///
    /// Returns a `ConfigError` if the duration is zero.
    pub fn require_positive(knob: &'static str, value: Duration) -> Result<Duration, Self> {
        if value.is_zero() {
            return Err(Self::new(knob, value, "it must be longer than zero"));
        }
        Ok(value)
    }

    /// Returns the count if it is at least 1.
    ///
    /// `N` can be any integer type.
    ///
    /// # Errors
    ///
    /// Returns a `ConfigError` if the count is zero or negative, or does not fit into a `u64`.
    pub fn require_nonzero<N>(knob: &'static str, value: N) -> Result<N, Self>
    where
        N: Copy + fmt::Debug + TryInto<u64>,
    {
        match value.try_into() {
            Ok(1..) => Ok(value),
            _ => Err(Self::new(knob, value, "it must be at least 1")),
        }
    }

    /// Returns the ratio if it is between 0 and 1, both included.
    ///
    /// # Errors
    ///
    /// Returns a `ConfigError` if the ratio is below 0, above 1 or not a number.
    pub fn require_ratio(knob: &'static str, value: f64) -> Result<f64, Self> {
        if !(0.0..=1.0).contains(&value) {
            return Err(Self::new(knob, value, "it must be a ratio between 0 and 1"));
        }
        Ok(value)
    }
}
