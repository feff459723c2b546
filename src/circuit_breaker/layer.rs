use std::{any::type_name, fmt, sync::Arc, time::Duration};

use tokio::time::Instant;
use tower_layer::Layer;

use super::{
    CircuitBreaker, CircuitBreakerHandle, KeyedBuilder,
    admission::Breaker,
    state::Core,
    window::{BUCKETS, MOST_CALLS, Span, nanos},
};
use crate::{
    ClassifyFn, ConfigError, Name, Outcome,
    call::patience::PATIENCE,
    classify_fn,
    error::name_or,
    outcome::choice::{Choice, Inherited, Own},
};

/// Settings that have been checked.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) name: Option<Name>,
    pub(super) span: Span,
    /// The length of a bucket in nanoseconds, where the window is one of time.
    pub(super) bucket_width: u64,
    /// Where ticks and open times are counted from.
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
    pub(super) abandoned_after: Duration,
    pub(super) pend: bool,
}

/// What an explanation of a stack says of its breaker.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) summary: String,
    pub(crate) window: Option<Duration>,
    pub(crate) slow_after: Option<Duration>,
    pub(crate) probe_lease: Duration,
    pub(crate) abandoned_after: Duration,
    pub(crate) pend: bool,
    pub(crate) keyed: bool,
}

impl Config {
    pub(super) fn name(&self) -> &str {
        name_or(&self.name, "circuit_breaker")
    }

    pub(super) fn facts(&self) -> Facts {
        let (of, window) = match self.span {
            Span::Calls(calls) => (format!("the last {calls} calls"), None),
            Span::Time(time) => (format!("the calls of the last {time:?}"), Some(time)),
        };
        let mut trips = Vec::new();
        if let Some(rate) = self.failure_rate {
            trips.push(format!("{:.0} % of {of} failed", rate * 100.0));
        }
        if let Some(SlowCalls { longer_than, rate }) = self.slow_calls {
            trips.push(format!("{:.0} % of {of} took {longer_than:?}", rate * 100.0));
        }
        if let Some(most) = self.consecutive_failures {
            trips.push(format!("{most} calls in a row failed"));
        }
        let then = if self.pend { "is not ready" } else { "refuses" };
        let summary = format!(
            "opens when {} ({} calls at least); then {then} for {:?}",
            trips.join(", or "),
            self.minimum_calls,
            self.open_for,
        );
        Facts {
            summary,
            window,
            slow_after: self.slow_calls.map(|slow| slow.longer_than),
            probe_lease: self.probe_lease,
            abandoned_after: self.abandoned_after,
            pend: self.pend,
            keyed: false,
        }
    }
}

/// Which calls are slow, and how large a share of them opens the breaker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct SlowCalls {
    pub(super) longer_than: Duration,
    pub(super) rate: f64,
}

/// What a breaker shares with its calls: its state, and who judges their results.
pub struct Shared<C> {
    core: Arc<Core>,
    classifier: Arc<C>,
}

impl<C> Shared<C> {
    fn new(core: Arc<Core>, classifier: Arc<C>) -> Arc<Self> {
        Arc::new(Self { core, classifier })
    }

    pub(super) fn classifier(&self) -> &C {
        &self.classifier
    }
}

impl<C> Breaker for Shared<C> {
    fn core(&self) -> &Core {
        &self.core
    }

    fn share(this: &Arc<Self>) -> Arc<Core> {
        Arc::clone(&this.core)
    }
}

impl<C> fmt::Debug for Shared<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("core", &self.core).finish_non_exhaustive()
    }
}

/// A circuit breaker, which makes [`CircuitBreaker`] services. See the [module docs](super) for an
/// example.
///
/// The layer *is* the breaker: clones of it, and all services that it makes, are one breaker, also
/// where a framework makes a service for every connection.
pub struct CircuitBreakerLayer<C = Inherited> {
    shared: Arc<Shared<C>>,
}

impl CircuitBreakerLayer {
    /// A breaker with the defaults that [`builder`](Self::builder) names.
    pub fn new() -> Self {
        let settings = Settings::default();
        let span = settings.span;
        Self::from_config(settings.checked(span), Arc::new(Inherited))
    }

    /// Settings other than the defaults.
    pub fn builder() -> CircuitBreakerBuilder {
        CircuitBreakerBuilder { settings: Settings::default(), classifier: Inherited }
    }
}

impl Default for CircuitBreakerLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<C> CircuitBreakerLayer<C> {
    fn from_config(config: Config, classifier: Arc<C>) -> Self {
        let core = Arc::new(Core::new(Arc::new(config)));
        Self { shared: Shared::new(core, classifier) }
    }

    /// What an operator sees of the breaker, and does to it.
    pub fn handle(&self) -> CircuitBreakerHandle {
        CircuitBreakerHandle::new(Arc::clone(&self.shared.core))
    }

    /// The service, with calls that end as `M` says.
    pub(crate) fn completing<S, M>(&self, inner: S) -> CircuitBreaker<S, C, M> {
        CircuitBreaker::new(inner, Arc::clone(&self.shared))
    }

    pub(crate) fn facts(&self) -> Facts {
        self.shared.core.config().facts()
    }

    /// The same breaker, with the stack's classifier where it has none of its own.
    pub(crate) fn in_stack<Stacked>(&self, stacked: &Arc<Stacked>) -> CircuitBreakerLayer<C::Chosen>
    where
        C: Choice<Stacked>,
    {
        let classifier = C::choose(&self.shared.classifier, stacked);
        CircuitBreakerLayer { shared: Shared::new(Arc::clone(&self.shared.core), classifier) }
    }
}

impl<C> Clone for CircuitBreakerLayer<C> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<C> fmt::Debug for CircuitBreakerLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreakerLayer")
            .field("breaker", &self.shared.core)
            .field("classifier", &format_args!("{}", type_name::<C>()))
            .finish()
    }
}

impl<S, C> Layer<S> for CircuitBreakerLayer<C> {
    type Service = CircuitBreaker<S, C>;

    fn layer(&self, inner: S) -> CircuitBreaker<S, C> {
        self.completing(inner)
    }
}

/// Settings that are not checked yet.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    name: Option<Name>,
    span: Span,
    minimum_calls: Option<u32>,
    failure_rate: Option<f64>,
    slow_calls: Option<SlowCalls>,
    consecutive_failures: Option<u32>,
    open_for: Duration,
    max_open_for: Option<Duration>,
    open_growth: f64,
    open_jitter: f64,
    probes: u32,
    probe_success_ratio: f64,
    probe_lease: Duration,
    abandoned_after: Duration,
    pub(super) pend: bool,
}

const MINIMUM_CALLS: u32 = 20;
const MAX_OPEN_FOR: Duration = Duration::from_secs(300);

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: None,
            span: Span::Time(Duration::from_secs(10)),
            minimum_calls: None,
            failure_rate: Some(0.5),
            slow_calls: None,
            consecutive_failures: None,
            open_for: Duration::from_secs(30),
            max_open_for: None,
            open_growth: 2.0,
            open_jitter: 0.1,
            probes: 3,
            probe_success_ratio: 0.5,
            probe_lease: Duration::from_secs(10),
            abandoned_after: PATIENCE,
            pend: false,
        }
    }
}

impl Settings {
    /// The default follows a window that is smaller than it: nobody who sets one knob should read of
    /// another.
    fn minimum_calls(&self) -> u32 {
        self.minimum_calls.unwrap_or(match self.span {
            Span::Calls(calls) => calls.min(MINIMUM_CALLS),
            Span::Time(_) => MINIMUM_CALLS,
        })
    }

    fn max_open_for(&self) -> Duration {
        self.max_open_for.unwrap_or(self.open_for.max(MAX_OPEN_FOR))
    }

    fn check(self) -> Result<Config, ConfigError> {
        match self.span {
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
        ConfigError::unless_counting("minimum_calls", self.minimum_calls())?;
        if let Some(rate) = self.failure_rate {
            above_zero("failure_rate", rate)?;
        }
        if let Some(slow) = self.slow_calls {
            ConfigError::unless_positive("slow_calls longer_than", slow.longer_than)?;
            above_zero("slow_calls rate", slow.rate)?;
        }
        if let Some(most) = self.consecutive_failures {
            ConfigError::unless_counting("consecutive_failures", most)?;
        }
        if (self.failure_rate, self.slow_calls, self.consecutive_failures) == (None, None, None) {
            let rule = "a breaker needs something to trip on: a failure rate, slow calls, or \
                        consecutive failures";
            return Err(ConfigError::new("failure_rate", "none", rule));
        }
        ConfigError::unless_positive("open_for", self.open_for)?;
        if self.max_open_for() < self.open_for {
            let rule = "it must not be shorter than `open_for`";
            return Err(ConfigError::new("max_open_for", self.max_open_for(), rule));
        }
        if !self.open_growth.is_finite() || self.open_growth < 1.0 {
            let rule = "it must be a finite number of at least 1";
            return Err(ConfigError::new("open_growth", self.open_growth, rule));
        }
        ConfigError::unless_ratio("open_jitter", self.open_jitter)?;
        ConfigError::unless_counting("probes", self.probes)?;
        ConfigError::unless_ratio("probe_success_ratio", self.probe_success_ratio)?;
        ConfigError::unless_positive("probe_lease", self.probe_lease)?;
        let span = self.span;
        Ok(self.checked(span))
    }

    fn checked(self, span: Span) -> Config {
        let bucket_width = match span {
            Span::Calls(_) => 1,
            Span::Time(time) => nanos(time) / BUCKETS as u64,
        };
        let (minimum_calls, max_open_for) = (self.minimum_calls(), self.max_open_for());
        let share = |passed: u32| f64::from(passed) / f64::from(self.probes);
        let mut needed = (self.probe_success_ratio * f64::from(self.probes)).ceil() as u32;
        // The product of a ratio may round up past a whole number that would do.
        if needed > 0 && share(needed - 1) >= self.probe_success_ratio {
            needed -= 1;
        }
        Config {
            name: self.name,
            span,
            bucket_width,
            origin: Instant::now(),
            minimum_calls,
            failure_rate: self.failure_rate,
            slow_calls: self.slow_calls,
            consecutive_failures: self.consecutive_failures,
            open_for: self.open_for,
            max_open_for,
            open_growth: self.open_growth,
            open_jitter: self.open_jitter,
            probes: self.probes,
            probes_to_pass: needed.clamp(1, self.probes),
            probe_lease: self.probe_lease,
            abandoned_after: self.abandoned_after,
            pend: self.pend,
        }
    }
}

fn above_zero(knob: &'static str, rate: f64) -> Result<f64, ConfigError> {
    if rate > 0.0 && rate <= 1.0 {
        return Ok(rate);
    }
    Err(ConfigError::new(knob, rate, "it must be a ratio above 0 and at most 1"))
}

/// Settings of a [`CircuitBreakerLayer`]. A breaker trips on whichever of its conditions is met first.
#[derive(Clone, Debug)]
pub struct CircuitBreakerBuilder<C = Inherited> {
    settings: Settings,
    classifier: C,
}

impl<C> CircuitBreakerBuilder<C> {
    /// What the breaker is called in errors and events; `circuit_breaker` until it is set.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.settings.name = Some(name.into());
        self
    }

    /// Judges by the calls of the last `time`, at least 10 ms, exact to a tenth of it. The default is
    /// 10 s: long enough to see past a hiccup, short enough to act within one.
    pub fn time_window(mut self, time: Duration) -> Self {
        self.settings.span = Span::Time(time);
        self
    }

    /// Judges by the last `calls` calls, however old they are.
    pub fn count_window(mut self, calls: u32) -> Self {
        self.settings.span = Span::Calls(calls);
        self
    }

    /// How many calls there must be in the window before a rate counts. The default is 20, for of fewer
    /// calls half may fail by chance; all of them, in a window of fewer calls.
    pub fn minimum_calls(mut self, calls: u32) -> Self {
        self.settings.minimum_calls = Some(calls);
        self
    }

    /// Trips when this share of the calls failed, above 0 and at most 1. The default is 0.5.
    pub fn failure_rate(mut self, rate: f64) -> Self {
        self.settings.failure_rate = Some(rate);
        self
    }

    /// Does not trip on a failure rate.
    pub fn without_failure_rate(mut self) -> Self {
        self.settings.failure_rate = None;
        self
    }

    /// Trips when this share of the calls took at least `longer_than`. Off until it is set. A probe
    /// that is slow has failed.
    pub fn slow_calls(mut self, longer_than: Duration, rate: f64) -> Self {
        self.settings.slow_calls = Some(SlowCalls { longer_than, rate });
        self
    }

    /// Trips when this many calls in a row failed, whatever the minimum of calls. Off until it is set.
    pub fn consecutive_failures(mut self, failures: u32) -> Self {
        self.settings.consecutive_failures = Some(failures);
        self
    }

    /// How long the breaker stays open the first time. The default is 30 s, as Envoy ejects a host. A
    /// failure that asks for longer ([`RetryHint::After`](crate::RetryHint), or
    /// [`Fault::Overloaded`](crate::Fault)) has it stay open for that long, up to
    /// [`max_open_for`](Self::max_open_for).
    pub fn open_for(mut self, time: Duration) -> Self {
        self.settings.open_for = time;
        self
    }

    /// The longest time that the breaker stays open, jitter apart. The default is 5 minutes, or
    /// [`open_for`](Self::open_for) if that is longer.
    pub fn max_open_for(mut self, time: Duration) -> Self {
        self.settings.max_open_for = Some(time);
        self
    }

    /// By how much longer each further trip keeps the breaker open, at least 1; the default is 2. It
    /// begins anew when the dependency has been well for as long as it was last kept off.
    pub fn open_growth(mut self, factor: f64) -> Self {
        self.settings.open_growth = factor;
        self
    }

    /// By how much of itself an open time is lengthened at random, 0 to 1; the default is 0.1. It
    /// keeps a fleet of clients from probing all at once.
    pub fn open_jitter(mut self, share: f64) -> Self {
        self.settings.open_jitter = share;
        self
    }

    /// How many probes a half-open breaker lets through; the default is 3, for one could be luck.
    pub fn probes(mut self, probes: u32) -> Self {
        self.settings.probes = probes;
        self
    }

    /// What share of the probes must succeed to close the breaker, 0 to 1, but at least one of them.
    /// The default is 0.5.
    pub fn probe_success_ratio(mut self, ratio: f64) -> Self {
        self.settings.probe_success_ratio = ratio;
        self
    }

    /// After how long a probe that is not answered has failed. The default is 10 s, twice what a
    /// call has in all.
    pub fn probe_lease(mut self, time: Duration) -> Self {
        self.settings.probe_lease = time;
        self
    }

    /// A call that is dropped, or cut by a deadline of its caller, whether here or by a service that keeps
    /// to it, counts as a failure if it had run for at least this long. The default is 2 s: less is the impatience of the caller, and callers
    /// in a hurry must not open a breaker that all share.
    pub fn abandoned_after(mut self, time: Duration) -> Self {
        self.settings.abandoned_after = time;
        self
    }

    /// Is not ready while it is open, in place of refusing: right under a balancer, which then takes
    /// another endpoint; wrong under a router or a server, which would wait.
    pub fn pend(mut self) -> Self {
        self.settings.pend = true;
        self
    }

    /// Who judges the results, whatever the stack says.
    pub fn classify<D>(self, classifier: D) -> CircuitBreakerBuilder<Own<D>> {
        CircuitBreakerBuilder { settings: self.settings, classifier: Own(classifier) }
    }

    /// Judges the results by a function, whatever the stack says.
    pub fn classify_fn<F, Res, E>(self, f: F) -> CircuitBreakerBuilder<Own<ClassifyFn<F>>>
    where
        F: Fn(Result<&Res, &E>) -> Outcome,
    {
        self.classify(classify_fn(f))
    }

    /// Makes a breaker for each key: a host, a tenant, a route.
    pub fn keyed<F, Req, K>(self, key: F) -> KeyedBuilder<K, F, C>
    where
        F: Fn(&Req) -> K,
    {
        KeyedBuilder::new(self.settings, self.classifier, key)
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// If one of them cannot work, or two contradict each other. The error names the setter.
    pub fn build(self) -> Result<CircuitBreakerLayer<C>, ConfigError> {
        let config = self.settings.check()?;
        Ok(CircuitBreakerLayer::from_config(config, Arc::new(self.classifier)))
    }
}

impl Settings {
    pub(super) fn build(self) -> Result<Arc<Config>, ConfigError> {
        self.check().map(Arc::new)
    }
}
