//! The configuration of a chaos layer, and its checks.

use std::{ops::Range, time::Duration};

use super::draw::{SCALE, Shares};
use crate::{ConfigError, error::Name};

/// The longest time for which a layer can be armed.
pub(super) const LONGEST: Duration = Duration::from_secs(3600);

/// The default limit of calls that hang.
///
/// It is more than the 256 concurrent calls of a default bulkhead, so that a partition is complete
/// beneath one. A program without a bulkhead keeps at most this many requests.
const MAX_HUNG: u32 = 1_000;

/// The settings of a layer whose faults are of the type `F`.
#[derive(Clone, Debug)]
pub(crate) struct Config<F> {
    pub(crate) name: Option<Name>,
    pub(crate) seed: u64,
    pub(crate) max_hung: u32,
    windows: Option<Vec<Range<Duration>>>,
    settings: Vec<Setting<F>>,
}

/// The ratio of calls with a fault, as a setter was given it.
#[derive(Clone, Debug)]
struct Setting<F> {
    setter: &'static str,
    ratio: f64,
    /// The length of the fault, if the setter takes one.
    time: Option<Duration>,
    fault: F,
}

impl<F> Config<F> {
    pub(crate) fn new() -> Self {
        Self { name: None, seed: 0, max_hung: MAX_HUNG, windows: None, settings: Vec::new() }
    }

    /// Sets the ratio of a fault. It replaces an earlier one of the same setter.
    pub(crate) fn set(
        &mut self,
        setter: &'static str,
        ratio: f64,
        time: Option<Duration>,
        fault: F,
    ) {
        self.settings.retain(|setting| setting.setter != setter);
        self.settings.push(Setting { setter, ratio, time, fault });
    }

    pub(crate) fn set_windows(&mut self, windows: impl IntoIterator<Item = Range<Duration>>) {
        self.windows = Some(windows.into_iter().collect());
    }

    /// Returns the shares of the faults and the windows, or an error if a setting is invalid.
    pub(crate) fn checked(self) -> Result<(Shares<F>, Windows), ConfigError> {
        ConfigError::require_nonzero("max_hung", self.max_hung)?;
        let (mut shares, mut sum) = (Vec::new(), 0);
        for Setting { setter, ratio, time, fault } in self.settings {
            let share = (ConfigError::require_ratio(setter, ratio)? * SCALE as f64).round() as u64;
            if time.is_some_and(|time| time.is_zero()) {
                let rule = "its time must be longer than zero";
                return Err(ConfigError::new(setter, Duration::ZERO, rule));
            }
            sum += share;
            // Each share is rounded.
            if sum > SCALE + shares.len() as u64 {
                let rule = "the ratios of all faults together must be at most 1";
                return Err(ConfigError::new(setter, ratio, rule));
            }
            shares.push((share, fault));
        }
        Ok((Shares::new(self.seed, shares), checked_windows(self.windows)?))
    }
}

/// The times since the arming within which there are faults, in order. `None` is all the time.
pub(super) type Windows = Option<Box<[Range<Duration>]>>;

fn checked_windows(windows: Option<Vec<Range<Duration>>>) -> Result<Windows, ConfigError> {
    let Some(windows) = windows else { return Ok(None) };
    let invalid = |value: &dyn std::fmt::Debug, rule| Err(ConfigError::new("windows", value, rule));
    if windows.is_empty() {
        return invalid(&windows, "there must be at least one window");
    }
    let mut last = Duration::ZERO;
    for window in &windows {
        if window.is_empty() {
            return invalid(window, "a window must end after its start");
        }
        if window.start < last {
            return invalid(window, "the windows must be in order and must not overlap");
        }
        if window.end > LONGEST {
            return invalid(window, "a window must end within 1 h, the longest time of an arming");
        }
        last = window.end;
    }
    Ok(Some(windows.into_boxed_slice()))
}
