use std::{any::type_name, fmt, sync::Arc, time::Duration};

use tower_layer::Layer;

use super::{
    CircuitBreaker, CircuitBreakerHandle, KeyedCircuitBreakerBuilder,
    breaker::Breaker,
    config::{Config, Facts, Settings, SlowCalls},
    shared::Shared,
    window::Span,
};
use crate::{
    ConfigError, Outcome, classify_fn,
    error::Name,
    outcome::{
        ClassifyFn,
        choice::{Choice, Inherited, Own},
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

    pub(crate) fn facts(&self) -> Facts {
        self.shared.breaker.config().facts()
    }

    /// The same breaker, with the stack's classifier where it has none of its own.
    pub(crate) fn in_stack<Stacked>(&self, stacked: &Arc<Stacked>) -> CircuitBreakerLayer<C::Chosen>
    where
        C: Choice<Stacked>,
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
    pub fn keyed<F, Req, K>(self, key: F) -> KeyedCircuitBreakerBuilder<K, F, C>
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
