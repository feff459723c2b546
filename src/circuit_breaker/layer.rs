use std::{any::type_name, fmt, sync::Arc, time::Duration};

use tower_layer::Layer;

use super::{
    CircuitBreaker, CircuitBreakerHandle, KeyedCircuitBreakerBuilder,
    breaker::Breaker,
    config::{Config, Settings, SlowCalls},
    shared::Shared,
};
use crate::{
    ConfigError, Outcome, classify_fn,
    error::Name,
    outcome::{
        ClassifyFn,
        choice::{ChooseClassifier, Inherited, Own},
    },
};

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
        Self::from_config(Settings::default().checked(), Arc::new(Inherited))
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
        let breaker = Arc::new(Breaker::new(Arc::new(config)));
        Self { shared: Shared::new(breaker, classifier) }
    }

    /// What an operator sees of the breaker, and does to it.
    pub fn handle(&self) -> CircuitBreakerHandle {
        CircuitBreakerHandle::new(Arc::clone(&self.shared.breaker))
    }

    /// The service, with calls that end as `M` says.
    pub(crate) fn completing<S, M>(&self, inner: S) -> CircuitBreaker<S, C, M> {
        CircuitBreaker::new(inner, Arc::clone(&self.shared))
    }

    pub(super) fn config(&self) -> &Config {
        self.shared.breaker.config()
    }

    /// The same breaker, with the stack's classifier where it has none of its own.
    pub(crate) fn in_stack<Stacked>(&self, stacked: &Arc<Stacked>) -> CircuitBreakerLayer<C::Chosen>
    where
        C: ChooseClassifier<Stacked>,
    {
        let classifier = C::choose(&self.shared.classifier, stacked);
        CircuitBreakerLayer { shared: Shared::new(Arc::clone(&self.shared.breaker), classifier) }
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
            .field("breaker", &self.shared.breaker)
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

/// Settings of a [`CircuitBreakerLayer`]. A breaker trips on whichever of its conditions is met first.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct CircuitBreakerBuilder<C = Inherited> {
    settings: Settings,
    classifier: C,
}

impl<C> CircuitBreakerBuilder<C> {
    /// Sets the name of the breaker in errors and events.
    ///
    /// Default: `circuit_breaker`.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.settings.name = Some(name.into());
        self
    }

    /// Sets the length of a window of time: the breaker judges by the calls of the last `time`.
    ///
    /// Default: `10 s`, unless [`count_window`](Self::count_window) is set.
    ///
    /// That is long enough to see past a hiccup, and short enough to act within one. It must be at
    /// least 10 ms, and is exact to a tenth of it. A breaker has one window, so both are an error.
    pub fn time_window(mut self, time: Duration) -> Self {
        self.settings.time_window = Some(time);
        self
    }

    /// Sets the size of a window of calls: the breaker judges by the last `calls` calls, however
    /// old they are.
    ///
    /// Default: none; the window is one of [time](Self::time_window).
    ///
    /// It must be 1 to 8,388,607. A breaker has one window, so both are an error.
    pub fn count_window(mut self, calls: u32) -> Self {
        self.settings.count_window = Some(calls);
        self
    }

    /// Sets how many calls there must be in the window before a rate counts.
    ///
    /// Default: `20`, or the size of a smaller window of calls.
    ///
    /// Of fewer calls half may fail by chance. It must be at least 1, and not more than a window of
    /// calls holds. Without a failure rate and slow calls it would have no effect, which is an
    /// error.
    pub fn minimum_calls(mut self, calls: u32) -> Self {
        self.settings.minimum_calls = Some(calls);
        self
    }

    /// Sets the share of failed calls that opens the breaker.
    ///
    /// Default: `0.5`.
    ///
    /// It must be above 0 and at most 1. It replaces an earlier
    /// [`without_failure_rate`](Self::without_failure_rate).
    pub fn failure_rate(mut self, rate: f64) -> Self {
        self.settings.failure_rate = Some(rate);
        self
    }

    /// Does not trip on a failure rate.
    ///
    /// It replaces an earlier [`failure_rate`](Self::failure_rate). Something else must be set that
    /// trips the breaker: [`slow_calls`](Self::slow_calls) or
    /// [`consecutive_failures`](Self::consecutive_failures).
    pub fn without_failure_rate(mut self) -> Self {
        self.settings.failure_rate = None;
        self
    }

    /// Sets the share of slow calls that opens the breaker, and how long a slow call takes at
    /// least.
    ///
    /// Default: off.
    ///
    /// `longer_than` must be longer than zero, `rate` above 0 and at most 1. A probe that is slow
    /// has failed.
    pub fn slow_calls(mut self, longer_than: Duration, rate: f64) -> Self {
        self.settings.slow_calls = Some(SlowCalls { longer_than, rate });
        self
    }

    /// Sets how many failed calls in a row open the breaker, whatever the minimum of calls.
    ///
    /// Default: off.
    ///
    /// It must be at least 1.
    pub fn consecutive_failures(mut self, failures: u32) -> Self {
        self.settings.consecutive_failures = Some(failures);
        self
    }

    /// Sets how long the breaker stays open the first time.
    ///
    /// Default: `30 s`, as Envoy ejects a host.
    ///
    /// A failure that asks for longer ([`RetryHint::After`](crate::RetryHint), or
    /// [`Fault::Overloaded`](crate::Fault)) has it stay open for that long, up to
    /// [`max_open_for`](Self::max_open_for). It must be longer than zero.
    pub fn open_for(mut self, time: Duration) -> Self {
        self.settings.open_for = time;
        self
    }

    /// Sets the longest time that the breaker stays open, jitter apart.
    ///
    /// Default: `5 min`, or [`open_for`](Self::open_for) if that is longer.
    ///
    /// It must not be shorter than `open_for`.
    pub fn max_open_for(mut self, time: Duration) -> Self {
        self.settings.max_open_for = Some(time);
        self
    }

    /// Sets by how much longer each further trip keeps the breaker open.
    ///
    /// Default: `2.0`.
    ///
    /// It begins anew when the dependency has been well for as long as it was last kept off. It
    /// must be a finite number of at least 1. Above 1 it has no effect if
    /// [`max_open_for`](Self::max_open_for) is set to [`open_for`](Self::open_for), which is an error.
    pub fn open_growth(mut self, factor: f64) -> Self {
        self.settings.open_growth = Some(factor);
        self
    }

    /// Sets by how much of itself an open time is lengthened at random.
    ///
    /// Default: `0.1`.
    ///
    /// It keeps a fleet of clients from probing all at once. It must be 0 to 1.
    pub fn open_jitter(mut self, share: f64) -> Self {
        self.settings.open_jitter = share;
        self
    }

    /// Sets how many probes a half-open breaker lets through.
    ///
    /// Default: `3`, because one could be luck.
    ///
    /// It must be at least 1.
    pub fn probes(mut self, probes: u32) -> Self {
        self.settings.probes = probes;
        self
    }

    /// Sets what share of the probes must succeed to close the breaker, rounded up to whole probes.
    ///
    /// Default: `0.5`.
    ///
    /// It must be above 0 and at most 1: no breaker closes without a success.
    pub fn probe_success_ratio(mut self, ratio: f64) -> Self {
        self.settings.probe_success_ratio = ratio;
        self
    }

    /// Sets after how long a probe that is not answered has failed.
    ///
    /// Default: `10 s`, twice what a call has in all.
    ///
    /// It must be longer than zero.
    pub fn probe_lease(mut self, time: Duration) -> Self {
        self.settings.probe_lease = time;
        self
    }

    /// Sets how long a call must have run to count as a failure when it is dropped, or cut by a
    /// deadline of its caller, whether here or by a service that keeps to it.
    ///
    /// Default: `2 s`.
    ///
    /// Less is the impatience of the caller, and callers in a hurry must not open a breaker that
    /// all share. With zero every such call counts; with `Duration::MAX` none does.
    pub fn abandoned_after(mut self, time: Duration) -> Self {
        self.settings.abandoned_after = time;
        self
    }

    /// Reports `Pending` while the circuit is open instead of rejecting.
    ///
    /// Use it directly beneath a balancer, which then picks another endpoint; never beneath a
    /// router or server, which would wait. A breaker [by key](Self::keyed_fn) cannot: there it is
    /// an error.
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

    /// Makes a breaker for each key that the closure returns: a host, a tenant, a route.
    ///
    /// It takes the settings made so far and returns another builder, because what it builds has
    /// services of another type.
    pub fn keyed_fn<F, Req, K>(self, key: F) -> KeyedCircuitBreakerBuilder<K, F, C>
    where
        F: Fn(&Req) -> K,
    {
        KeyedCircuitBreakerBuilder::new(self.settings, self.classifier, key)
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
