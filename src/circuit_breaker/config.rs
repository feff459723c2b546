//! The settings of a breaker, and the values derived from them.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    effects::Hint,
    key_counts::KeyCounts,
    state::TripReason,
    window::{MOST_CALLS, Span, Totals},
};
use crate::{
    ConfigError,
    call::{
        clock::nanos,
        patience::{Patience, SILENCE, silence, whole_at_drop},
        random::{between, draw},
    },
    error::Name,
    telemetry::{Kind, Reporter, ReporterCell},
    window::BUCKETS,
};

/// The settings after they have been checked.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) reporter: ReporterCell,
    /// The number of keys in each state, for breakers by key.
    pub(super) key_counts: Option<Arc<KeyCounts>>,
    pub(super) span: Span,
    /// The length of a bucket in nanoseconds, if the window is a span of time.
    pub(super) bucket_width: u64,
    /// The instant from which ticks and open times are counted.
    pub(super) origin: Instant,
    pub(super) minimum_calls: u32,
    pub(super) failure_rate: Option<f64>,
    pub(super) slow_calls: Option<SlowCalls>,
    pub(super) consecutive_failures: Option<u32>,
    pub(super) open_for: Duration,
    pub(super) max_open_for: Duration,
    pub(super) open_growth: f64,
    pub(super) open_jitter: f64,
    pub(super) probes: u32,
    pub(super) probes_to_pass: u32,
    pub(super) probe_lease: Duration,
    /// The time that was set, or `None` by default.
    pub(super) abandoned_after: Option<Duration>,
    /// The time without a response after which calls that are cut count.
    pub(super) silence: Duration,
    pub(super) pend: bool,
}

/// The time after which a call is slow, and the share of slow calls that opens the breaker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct SlowCalls {
    pub(super) longer_than: Duration,
    pub(super) rate: f64,
}

impl Config {
    pub(super) fn reporter(&self) -> &Reporter {
        self.reporter.get()
    }

    /// Returns the same settings for other breakers, with a reporter and counts of their own.
    pub(super) fn fresh(&self) -> Self {
        let key_counts = self.key_counts.as_ref().map(|_| Arc::default());
        let (reporter, origin) = (self.reporter.fresh(), Instant::now());
        Self { reporter, key_counts, origin, ..self.clone() }
    }

    /// Returns the run time from which a call that is cut now has failed at once.
    ///
    /// Returns `Duration::MAX` if there is none. `own_limit` is the limit of the call's stack.
    pub(super) fn fails_after(&self, own_limit: Option<Duration>, patience: &Patience) -> Duration {
        let whole = own_limit.filter(|_| !self.ignores_cuts());
        let whole = whole.map(|limit| whole_at_drop(limit, patience.long(Duration::ZERO)));
        let set = self.abandoned_after.unwrap_or(Duration::MAX);
        whole.map_or(set, |whole| set.min(whole))
    }

    /// Returns `true` if no call that is cut counts.
    pub(super) fn ignores_cuts(&self) -> bool {
        self.abandoned_after == Some(Duration::MAX)
    }

    /// Returns the reason to open, if the counts of the window are one.
    pub(super) fn trip_reason(&self, totals: Totals, consecutive: u32) -> Option<TripReason> {
        if self.consecutive_failures.is_some_and(|most| consecutive >= most) {
            return Some(TripReason::ConsecutiveFailures);
        }
        if totals.calls < u64::from(self.minimum_calls) || totals.calls == 0 {
            return None;
        }
        let share = |part: u64| part as f64 / totals.calls as f64;
        if self.failure_rate.is_some_and(|rate| share(totals.failures) >= rate) {
            return Some(TripReason::FailureRate);
        }
        if self.slow_calls.is_some_and(|slow| share(totals.slow) >= slow.rate) {
            return Some(TripReason::SlowCallRate);
        }
        None
    }

    /// Returns the time to stay open after this number of trips in a row.
    ///
    /// A dependency that is only overloaded says itself when to come back. If that was too soon a
    /// few times, the time grows up to `open_for`, even if that of outages does not. Any other
    /// dependency may ask for a longer time.
    pub(super) fn open_time(&self, trips: u32, hint: Option<Hint>) -> Duration {
        let (first, most, growth, grows_after) = match hint {
            Some(Hint { overload: true, .. }) => {
                let first = SHORTEST_OVERLOAD.min(self.open_for);
                (first, self.open_for, self.open_growth.max(OPEN_GROWTH), TRUSTED_OVERLOADS)
            }
            _ => (self.open_for, self.max_open_for, self.open_growth, 1),
        };
        let exponent = i32::try_from(trips.saturating_sub(grows_after)).unwrap_or(i32::MAX);
        let grown = first.as_secs_f64() * growth.powi(exponent);
        let grown = Duration::try_from_secs_f64(grown).unwrap_or(most).min(most);
        let asked = hint.map_or(Duration::ZERO, |hint| hint.time);
        let asked = grown.max(asked).min(self.max_open_for);
        // Jitter only lengthens the time. The dependency is never called sooner than promised.
        let longest = asked.as_secs_f64() * (1.0 + self.open_jitter);
        let longest = Duration::try_from_secs_f64(longest).unwrap_or(Duration::MAX);
        draw(|rng| between(asked, longest.max(asked), rng))
    }
}

/// The open time after an overload, if the dependency names a shorter one.
const SHORTEST_OVERLOAD: Duration = Duration::from_secs(1);

/// The number of overloads in a row after which the shortest time grows.
const TRUSTED_OVERLOADS: u32 = 5;

/// The settings before they are checked.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) name: Option<Name>,
    pub(super) time_window: Option<Duration>,
    pub(super) count_window: Option<u32>,
    pub(super) minimum_calls: Option<u32>,
    pub(super) failure_rate: Option<f64>,
    pub(super) slow_calls: Option<SlowCalls>,
    pub(super) consecutive_failures: Option<u32>,
    pub(super) open_for: Duration,
    pub(super) max_open_for: Option<Duration>,
    pub(super) open_growth: Option<f64>,
    pub(super) open_jitter: f64,
    pub(super) probes: u32,
    pub(super) probe_success_ratio: f64,
    pub(super) probe_lease: Duration,
    pub(super) abandoned_after: Option<Duration>,
    pub(super) pend: bool,
}

const MINIMUM_CALLS: u32 = 20;
const MAX_OPEN_FOR: Duration = Duration::from_secs(300);
const OPEN_GROWTH: f64 = 2.0;
const TIME_WINDOW: Duration = Duration::from_secs(10);

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: None,
            time_window: None,
            count_window: None,
            minimum_calls: None,
            failure_rate: Some(0.5),
            slow_calls: None,
            consecutive_failures: None,
            open_for: Duration::from_secs(30),
            max_open_for: None,
            open_growth: None,
            open_jitter: 0.1,
            probes: 3,
            probe_success_ratio: 0.5,
            probe_lease: Duration::from_secs(10),
            abandoned_after: None,
            pend: false,
        }
    }
}

impl Settings {
    fn span(&self) -> Span {
        match self.count_window {
            Some(calls) => Span::Calls(calls),
            None => Span::Time(self.time_window.unwrap_or(TIME_WINDOW)),
        }
    }

    /// Returns the minimum, which by default follows a smaller window of calls.
    ///
    /// Otherwise a user who sets only `count_window` would get an error about `minimum_calls`.
    fn minimum_calls(&self) -> u32 {
        self.minimum_calls.unwrap_or(match self.span() {
            Span::Calls(calls) => calls.min(MINIMUM_CALLS),
            Span::Time(_) => MINIMUM_CALLS,
        })
    }

    fn max_open_for(&self) -> Duration {
        self.max_open_for.unwrap_or(self.open_for.max(MAX_OPEN_FOR))
    }

    pub(super) fn check(self) -> Result<Config, ConfigError> {
        self.check_window()?;
        self.check_trips()?;
        self.check_open_times()?;
        self.check_probes()?;
        Ok(self.checked())
    }

    fn check_window(&self) -> Result<(), ConfigError> {
        if let (Some(_), Some(calls)) = (self.time_window, self.count_window) {
            let rule = "a breaker has one window, and `time_window` is set too";
            return Err(ConfigError::new("count_window", calls, rule));
        }
        let minimum_calls = ConfigError::require_nonzero("minimum_calls", self.minimum_calls());
        match self.span() {
            Span::Calls(0) => {
                return Err(ConfigError::new("count_window", 0, "it must be at least 1"));
            }
            Span::Calls(calls) if calls > MOST_CALLS / 2 => {
                let rule = "a window of calls holds at most 8388607; use a window of time";
                return Err(ConfigError::new("count_window", calls, rule));
            }
            Span::Calls(calls) if calls < self.minimum_calls() => {
                let rule = "it must not be more than the window holds";
                return Err(ConfigError::new("minimum_calls", self.minimum_calls(), rule));
            }
            Span::Time(time) if time < Duration::from_millis(10) => {
                let rule = "it must be at least 10 ms";
                return Err(ConfigError::new("time_window", time, rule));
            }
            Span::Calls(_) | Span::Time(_) => {}
        }
        minimum_calls.map(drop)
    }

    fn check_trips(&self) -> Result<(), ConfigError> {
        if let Some(rate) = self.failure_rate {
            above_zero("failure_rate", rate)?;
        }
        if let Some(SlowCalls { longer_than, rate }) = self.slow_calls {
            if longer_than.is_zero() {
                let rule = "its `longer_than` must be longer than zero";
                return Err(ConfigError::new("slow_calls", longer_than, rule));
            }
            if !is_above_zero(rate) {
                let rule = "its `rate` must be a ratio above 0 and at most 1";
                return Err(ConfigError::new("slow_calls", rate, rule));
            }
        }
        if let Some(most) = self.consecutive_failures {
            ConfigError::require_nonzero("consecutive_failures", most)?;
        }
        let has_rate = self.failure_rate.is_some() || self.slow_calls.is_some();
        if !has_rate && self.consecutive_failures.is_none() {
            let rule = "a breaker needs something to trip on: a failure rate, slow calls, or \
                        consecutive failures";
            return Err(ConfigError::new("without_failure_rate", true, rule));
        }
        if let (false, Some(calls)) = (has_rate, self.minimum_calls) {
            let rule = "without a failure rate and slow calls it has no effect";
            return Err(ConfigError::new("minimum_calls", calls, rule));
        }
        Ok(())
    }

    fn check_open_times(&self) -> Result<(), ConfigError> {
        ConfigError::require_positive("open_for", self.open_for)?;
        if self.max_open_for() < self.open_for {
            let rule = "it must not be shorter than `open_for`";
            return Err(ConfigError::new("max_open_for", self.max_open_for(), rule));
        }
        if let Some(growth) = self.open_growth {
            let rule = if !growth.is_finite() || growth < 1.0 {
                Some("it must be a finite number of at least 1")
            } else if growth > 1.0 && self.max_open_for == Some(self.open_for) {
                Some("it has no effect while `max_open_for` is not longer than `open_for`")
            } else {
                None
            };
            if let Some(rule) = rule {
                return Err(ConfigError::new("open_growth", growth, rule));
            }
        }
        ConfigError::require_ratio("open_jitter", self.open_jitter)?;
        Ok(())
    }

    fn check_probes(&self) -> Result<(), ConfigError> {
        ConfigError::require_nonzero("probes", self.probes)?;
        above_zero("probe_success_ratio", self.probe_success_ratio)?;
        ConfigError::require_positive("probe_lease", self.probe_lease)?;
        Ok(())
    }

    /// Completes settings that have been checked.
    pub(super) fn checked(self) -> Config {
        let span = self.span();
        let (bucket_width, silence) = match span {
            Span::Calls(_) => (1, SILENCE),
            Span::Time(time) => (nanos(time) / BUCKETS as u64, silence(time)),
        };
        let (minimum_calls, max_open_for) = (self.minimum_calls(), self.max_open_for());
        let share = |passed: u32| f64::from(passed) / f64::from(self.probes);
        let mut needed = (self.probe_success_ratio * f64::from(self.probes)).ceil() as u32;
        // The product may round up past a whole number that is enough.
        if needed > 0 && share(needed - 1) >= self.probe_success_ratio {
            needed -= 1;
        }
        Config {
            reporter: ReporterCell::new(self.name, Kind::CircuitBreaker),
            key_counts: None,
            span,
            bucket_width,
            origin: Instant::now(),
            minimum_calls,
            failure_rate: self.failure_rate,
            slow_calls: self.slow_calls,
            consecutive_failures: self.consecutive_failures,
            open_for: self.open_for,
            max_open_for,
            open_growth: self.open_growth.unwrap_or(OPEN_GROWTH),
            open_jitter: self.open_jitter,
            probes: self.probes,
            probes_to_pass: needed.clamp(1, self.probes),
            probe_lease: self.probe_lease,
            abandoned_after: self.abandoned_after,
            silence,
            pend: self.pend,
        }
    }
}

fn above_zero(knob: &'static str, rate: f64) -> Result<(), ConfigError> {
    if is_above_zero(rate) {
        return Ok(());
    }
    Err(ConfigError::new(knob, rate, "it must be a ratio above 0 and at most 1"))
}

fn is_above_zero(rate: f64) -> bool {
    rate > 0.0 && rate <= 1.0
}
