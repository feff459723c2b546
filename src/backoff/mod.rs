//! The delays between the attempts of a call. This module is pure and never reads the clock.

use std::time::Duration;

use rand::Rng;

use crate::{ConfigError, call::random::between};

/// The randomness added to a delay.
///
/// Without jitter, all clients that failed at the same moment retry at the same moment, and
/// overload the service again. The names and formulas are from Marc Brooker, "Exponential Backoff
/// And Jitter" (AWS Architecture Blog, 2015). Each attempt of each call draws its own delay, which
/// is never longer than the cap.
///
/// Default: `Jitter::Full`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Jitter {
    /// The computed delay, unchanged.
    ///
    /// Use it in tests only. In production it makes all clients retry at the same moment.
    None,
    /// A random delay between zero and the computed delay.
    ///
    /// This is the default because it spreads the load most.
    #[default]
    Full,
    /// A random delay between half the computed delay and all of it.
    ///
    /// Use it if each retry needs a minimum pause.
    Equal,
    /// A random delay between the base and three times the previous delay.
    Decorrelated,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Growth {
    Constant,
    Linear,
    Exponential { factor: f64 },
}

/// A sequence of delays, with its growth, its cap and its jitter.
///
/// ```
/// use buttress::retry::{Backoff, Jitter};
/// use std::time::Duration;
///
/// let backoff = Backoff::exponential(Duration::from_millis(50))
///     .factor(2.0)
///     .cap(Duration::from_secs(1))
///     .jitter(Jitter::Full)
///     .build()?;
/// # let _ = backoff;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    growth: Growth,
    base: Duration,
    cap: Duration,
    jitter: Jitter,
}

impl Default for Backoff {
    /// Returns an exponential backoff: 50 ms, doubling up to 1 s, with full jitter.
    ///
    /// A call with a total timeout of five seconds and three retries then has more than four
    /// seconds left for its attempts.
    fn default() -> Self {
        Self {
            growth: Growth::Exponential { factor: 2.0 },
            base: Duration::from_millis(50),
            cap: Duration::from_secs(1),
            jitter: Jitter::Full,
        }
    }
}

impl Backoff {
    /// Returns a builder for a backoff whose delays are all `delay`.
    ///
    /// The default cap is `delay` itself. [`build`](BackoffBuilder::build) rejects a zero `delay`.
    pub fn constant(delay: Duration) -> BackoffBuilder {
        BackoffBuilder::new(Growth::Constant, ("delay", delay), delay)
    }

    /// Returns a builder for delays of one, two, three and more times `step`.
    ///
    /// The default cap is 1 s, or `step` if that is longer.
    /// [`build`](BackoffBuilder::build) rejects a zero `step`.
    pub fn linear(step: Duration) -> BackoffBuilder {
        BackoffBuilder::new(Growth::Linear, ("step", step), Self::default().cap.max(step))
    }

    /// Returns a builder for delays that start at `base` and grow by a constant factor.
    ///
    /// The default factor is 2. The default cap is 1 s, or `base` if that is longer.
    /// [`build`](BackoffBuilder::build) rejects a zero `base`.
    pub fn exponential(base: Duration) -> BackoffBuilder {
        let growth = Growth::Exponential { factor: 2.0 };
        BackoffBuilder::new(growth, ("base", base), Self::default().cap.max(base))
    }

    /// Returns the longest delay, jitter included.
    pub fn cap(&self) -> Duration {
        self.cap
    }

    /// Returns the jitter.
    pub fn jitter(&self) -> Jitter {
        self.jitter
    }

    /// Returns the computed delay before retry `number` (the first is 1), without jitter.
    ///
    /// This is also the longest delay with full and equal jitter.
    pub(crate) fn ceiling(&self, number: u32) -> Duration {
        let grown = match self.growth {
            Growth::Constant => Some(self.base),
            Growth::Linear => self.base.checked_mul(number),
            Growth::Exponential { factor } => {
                let exponent = i32::try_from(number.saturating_sub(1)).unwrap_or(i32::MAX);
                let seconds = self.base.as_secs_f64() * factor.powi(exponent);
                Duration::try_from_secs_f64(seconds).ok()
            }
        };
        grown.map_or(self.cap, |grown| grown.min(self.cap))
    }

    /// Returns the longest delay that is possible before retry `number`.
    pub(crate) fn longest(&self, number: u32) -> Duration {
        match self.jitter {
            Jitter::Decorrelated => {
                let factor = 3u32.saturating_pow(number);
                self.base.saturating_mul(factor).min(self.cap)
            }
            Jitter::None | Jitter::Full | Jitter::Equal => self.ceiling(number),
        }
    }

    /// Draws the delay before retry `number` (the first is 1). The previous delay was `previous`.
    pub(crate) fn delay(&self, number: u32, previous: Duration, rng: &mut impl Rng) -> Duration {
        let ceiling = self.ceiling(number);
        match self.jitter {
            Jitter::None => ceiling,
            Jitter::Full => between(Duration::ZERO, ceiling, rng),
            Jitter::Equal => between(ceiling / 2, ceiling, rng),
            Jitter::Decorrelated => {
                let previous = previous.max(self.base);
                // The cap limits the range instead of the result. Otherwise most draws would
                // equal the cap.
                between(self.base, previous.saturating_mul(3).min(self.cap), rng)
            }
        }
    }
}

/// A builder for a [`Backoff`].
///
/// [`build`](Self::build) returns a [`ConfigError`] for an invalid setting.
#[derive(Clone, Copy, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct BackoffBuilder {
    backoff: Backoff,
    /// The name of the constructor's parameter, for the error.
    base: &'static str,
    factor: Option<f64>,
}

impl BackoffBuilder {
    fn new(growth: Growth, (base, delay): (&'static str, Duration), cap: Duration) -> Self {
        let backoff = Backoff { growth, base: delay, cap, jitter: Jitter::default() };
        Self { backoff, base, factor: None }
    }

    /// Sets the factor by which each delay is longer than the previous one.
    ///
    /// Default: `2.0`.
    ///
    /// It must be a finite number of at least 1. Only an exponential backoff has a factor.
    /// [`build`](Self::build) rejects a factor for any other backoff, and a factor together with
    /// [`Jitter::Decorrelated`], which would ignore it.
    pub fn factor(mut self, factor: f64) -> Self {
        self.factor = Some(factor);
        self
    }

    /// Sets the longest delay, jitter included.
    ///
    /// Default: `1 s`, or the first delay if that is longer. For a constant backoff, the delay
    /// itself.
    ///
    /// It must not be shorter than the first delay. For a constant backoff it must not be longer
    /// either, because the delay does not grow. The exception is [`Jitter::Decorrelated`], which
    /// lets the delay grow.
    pub fn cap(mut self, cap: Duration) -> Self {
        self.backoff.cap = cap;
        self
    }

    /// Sets the randomness added to the delays.
    ///
    /// Default: `Jitter::Full`.
    ///
    /// [`Jitter::Decorrelated`] draws between the first delay and the cap, so the cap must then be
    /// longer than the first delay.
    pub fn jitter(mut self, jitter: Jitter) -> Self {
        self.backoff.jitter = jitter;
        self
    }

    /// Validates the settings and returns the backoff.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] if:
    ///
    /// - the first delay is zero;
    /// - the cap is shorter than the first delay;
    /// - the factor is less than 1, or not a finite number;
    /// - a setting has no effect on this kind of backoff.
    pub fn build(self) -> Result<Backoff, ConfigError> {
        let Backoff { base, cap, jitter, .. } = self.backoff;
        ConfigError::require_positive(self.base, base)?;
        if cap < base {
            let rule = "it must not be shorter than the first delay";
            return Err(ConfigError::new("cap", cap, rule));
        }
        if jitter == Jitter::Decorrelated && cap == base {
            let rule = "it has no effect unless the cap is longer than the first delay";
            return Err(ConfigError::new("jitter", jitter, rule));
        }
        let is_constant = self.backoff.growth == Growth::Constant;
        if is_constant && jitter != Jitter::Decorrelated && cap > base {
            let rule =
                "a constant backoff never exceeds its delay, unless its jitter is decorrelated";
            return Err(ConfigError::new("cap", cap, rule));
        }
        Ok(Backoff { growth: self.growth()?, ..self.backoff })
    }

    /// Returns the growth, with the factor if one was set.
    fn growth(&self) -> Result<Growth, ConfigError> {
        let Some(factor) = self.factor else { return Ok(self.backoff.growth) };
        let rule = if !factor.is_finite() || factor < 1.0 {
            "it must be a finite number of at least 1"
        } else if !matches!(self.backoff.growth, Growth::Exponential { .. }) {
            "only an exponential backoff has a factor"
        } else if self.backoff.jitter == Jitter::Decorrelated {
            "decorrelated delays grow at random and take no factor"
        } else {
            return Ok(Growth::Exponential { factor });
        };
        Err(ConfigError::new("factor", factor, rule))
    }
}

#[cfg(test)]
mod tests;
