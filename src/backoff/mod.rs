//! How long to wait before trying again: pure delays, no clock.

use std::time::Duration;

use rand::Rng;

use crate::{ConfigError, call::random::between};

/// How much of a delay is left to chance.
///
/// Without jitter all clients that failed together come back together, and fail together again. The
/// names and formulas are those of Marc Brooker, "Exponential Backoff And Jitter" (AWS Architecture
/// Blog, 2015). Every delay is a draw of its own, for each call and each attempt, and is never
/// longer than the cap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Jitter {
    /// The computed delay as it is. For tests; in production it makes clients march in step.
    None,
    /// Between nothing and the computed delay. The default: it spreads load the most.
    #[default]
    Full,
    /// Between half the computed delay and all of it, for callers that need some pause at least.
    Equal,
    /// Between the base and three times the delay before.
    Decorrelated,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Growth {
    Constant,
    Linear,
    Exponential { factor: f64 },
}

/// A sequence of delays: how they grow, how long they may become, and how they are spread.
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
    /// Exponential from 50 ms, doubling, at most 1 s, full jitter: three retries of a call with
    /// five seconds in all then leave more than four of them to the attempts.
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
    /// The same delay each time. The cap is the delay itself, until it is set.
    pub fn constant(delay: Duration) -> BackoffBuilder {
        BackoffBuilder::new(Growth::Constant, ("delay", delay), delay)
    }

    /// Delays of one, two, three .. times `step`, at most 1 s until the cap is set.
    pub fn linear(step: Duration) -> BackoffBuilder {
        BackoffBuilder::new(Growth::Linear, ("step", step), Self::default().cap.max(step))
    }

    /// Delays of `base`, then each `factor` (2, until it is set) times the one before, at most 1 s
    /// until the cap is set.
    pub fn exponential(base: Duration) -> BackoffBuilder {
        let growth = Growth::Exponential { factor: 2.0 };
        BackoffBuilder::new(growth, ("base", base), Self::default().cap.max(base))
    }

    /// The longest delay.
    pub fn cap(&self) -> Duration {
        self.cap
    }

    /// How the delays are spread.
    pub fn jitter(&self) -> Jitter {
        self.jitter
    }

    /// The delay before retry `number` (the first is 1) as computed, before jitter: also the longest
    /// that full and equal jitter can make it.
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

    /// The longest delay that can stand before retry `number`.
    pub(crate) fn longest(&self, number: u32) -> Duration {
        match self.jitter {
            Jitter::Decorrelated => {
                let factor = 3u32.saturating_pow(number);
                self.base.saturating_mul(factor).min(self.cap)
            }
            Jitter::None | Jitter::Full | Jitter::Equal => self.ceiling(number),
        }
    }

    /// Draws the delay before retry `number` (the first is 1), which follows a delay of `previous`.
    pub(crate) fn delay(&self, number: u32, previous: Duration, rng: &mut impl Rng) -> Duration {
        let ceiling = self.ceiling(number);
        match self.jitter {
            Jitter::None => ceiling,
            Jitter::Full => between(Duration::ZERO, ceiling, rng),
            Jitter::Equal => between(ceiling / 2, ceiling, rng),
            Jitter::Decorrelated => {
                let previous = previous.max(self.base);
                // The cap bounds the range and not the draw, or most draws would be the cap itself.
                between(self.base, previous.saturating_mul(3).min(self.cap), rng)
            }
        }
    }
}

/// Settings of a [`Backoff`] that are not checked yet.
#[derive(Clone, Copy, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct BackoffBuilder {
    backoff: Backoff,
    /// The parameter of the constructor, which an error names.
    base: &'static str,
    factor: Option<f64>,
}

impl BackoffBuilder {
    fn new(growth: Growth, (base, delay): (&'static str, Duration), cap: Duration) -> Self {
        let backoff = Backoff { growth, base: delay, cap, jitter: Jitter::default() };
        Self { backoff, base, factor: None }
    }

    /// Sets by how much each delay is longer than the one before.
    ///
    /// Default: `2.0`.
    ///
    /// It must be a finite number of at least 1. Only an exponential backoff has a factor, and
    /// [`Jitter::Decorrelated`] ignores it: there, [`build`](Self::build) rejects it.
    pub fn factor(mut self, factor: f64) -> Self {
        self.factor = Some(factor);
        self
    }

    /// Sets the longest delay, jitter included.
    ///
    /// Default: `1 s`, or the first delay if that is longer; the delay itself, if it is constant.
    ///
    /// It must not be shorter than the first delay. A constant backoff grows only with
    /// [`Jitter::Decorrelated`]: with any other jitter, a longer cap is rejected.
    pub fn cap(mut self, cap: Duration) -> Self {
        self.backoff.cap = cap;
        self
    }

    /// Sets how the delays are spread.
    ///
    /// Default: [`Jitter::Full`].
    ///
    /// [`Jitter::Decorrelated`] draws between the first delay and the cap, so the cap must be
    /// longer.
    pub fn jitter(mut self, jitter: Jitter) -> Self {
        self.backoff.jitter = jitter;
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// If the first delay is zero, the cap is shorter than it, the factor is less than 1 or not a
    /// finite number, or a setting is without effect on this kind of backoff.
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

    /// Returns the growth, with the factor that was set.
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
