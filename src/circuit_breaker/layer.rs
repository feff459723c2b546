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
    telemetry::{Registry, Reporters},
};

/// A layer that creates [`CircuitBreaker`] services, which share one circuit breaker.
///
/// The layer *is* the breaker. Its clones, and all services that it creates, share one state, even
/// if a framework creates a service for each connection. See the [module docs](super) for an
/// example.
pub struct CircuitBreakerLayer<C = Inherited> {
    shared: Arc<Shared<C>>,
}

impl CircuitBreakerLayer {
    /// Creates a breaker with the default settings.
    ///
    /// It opens at a failure rate of 50 % over the last 10 s, with at least 20 calls. It stays open
    /// for 30 s, doubling up to 5 min, and then admits 3 probes. [`CircuitBreakerBuilder`] has a
    /// setter for each of these values.
    pub fn new() -> Self {
        Self::from_config(Settings::default().checked(), Arc::new(Inherited))
    }

    /// Returns a builder with the default settings.
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
        Self { shared: Shared::new(breaker, classifier, None) }
    }

    /// Returns a handle for inspecting and controlling the breaker at run time.
    pub fn handle(&self) -> CircuitBreakerHandle {
        CircuitBreakerHandle::new(Arc::clone(&self.shared.breaker))
    }

    /// Creates a service. `M` decides when a call is complete.
    pub(crate) fn completing<S, M>(&self, inner: S) -> CircuitBreaker<S, C, M> {
        CircuitBreaker::new(inner, Arc::clone(&self.shared))
    }

    /// Returns a layer with the same settings and a closed breaker of its own.
    pub(crate) fn fresh(&self) -> Self {
        let breaker = Arc::new(Breaker::new(Arc::new(self.config().fresh())));
        let classifier = Arc::clone(&self.shared.classifier);
        Self { shared: Shared::new(breaker, classifier, self.shared.own_limit) }
    }

    /// Takes the names and the registry of a stack.
    pub(crate) fn inherit(&self, stack: &Reporters) {
        self.handle().inherit(stack);
    }

    fn count_in(&self, registry: &Registry) {
        let state = Some(self.shared.breaker.layer_state());
        self.config().reporter.register(registry, state);
    }

    pub(super) fn config(&self) -> &Config {
        self.shared.breaker.config()
    }

    /// Returns the same breaker with the stack's classifier, unless it has its own.
    ///
    /// `own_limit` is the limit of the stack for each call or attempt.
    pub(crate) fn in_stack<Stacked>(
        &self,
        stacked: &Arc<Stacked>,
        own_limit: Option<Duration>,
    ) -> CircuitBreakerLayer<C::Chosen>
    where
        C: ChooseClassifier<Stacked>,
    {
        let classifier = C::choose(&self.shared.classifier, stacked);
        let breaker = Arc::clone(&self.shared.breaker);
        CircuitBreakerLayer { shared: Shared::new(breaker, classifier, own_limit) }
    }
}

register!(CircuitBreakerLayer<C>);

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

/// A builder for a [`CircuitBreakerLayer`].
///
/// The breaker opens when the first of its conditions is met: the failure rate, the share of slow
/// calls, or the number of consecutive failures. [`build`](Self::build) returns a [`ConfigError`]
/// for a value out of range.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct CircuitBreakerBuilder<C = Inherited> {
    settings: Settings,
    classifier: C,
}

impl<C> CircuitBreakerBuilder<C> {
    /// Sets the name of the breaker in errors and events.
    ///
    /// Default: `circuit_breaker`. In a stack with a name, it is that of the stack.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.settings.name = Some(name.into());
        self
    }

    /// Sets the window to a span of time, which counts the calls in the last `time`.
    ///
    /// Default: `10 s`, unless [`count_window`](Self::count_window) is set.
    ///
    /// Ten seconds are long enough to ignore a short disturbance, and short enough to react to an
    /// outage. The window is exact to a tenth of its length. It must be at least 10 ms, and
    /// `count_window` must not be set too.
    pub fn time_window(mut self, time: Duration) -> Self {
        self.settings.time_window = Some(time);
        self
    }

    /// Sets the window to a number of calls, which counts the last `calls` calls of any age.
    ///
    /// Default: none. The window is a [span of time](Self::time_window).
    ///
    /// The number must be 1 to 8,388,607, and `time_window` must not be set too.
    pub fn count_window(mut self, calls: u32) -> Self {
        self.settings.count_window = Some(calls);
        self
    }

    /// Sets the minimum number of calls in the window before a rate can open the breaker.
    ///
    /// Default: `20`, or the size of the [`count_window`](Self::count_window) if that is smaller.
    ///
    /// With fewer calls, half of them may fail by chance. The minimum must be at least 1, and at
    /// most the size of the `count_window`. It must not be set if only
    /// [`consecutive_failures`](Self::consecutive_failures) can open the breaker, because it then
    /// has no effect.
    pub fn minimum_calls(mut self, calls: u32) -> Self {
        self.settings.minimum_calls = Some(calls);
        self
    }

    /// Sets the share of failed calls in the window that opens the breaker.
    ///
    /// Default: `0.5`, which is 50 % of the calls.
    ///
    /// The share must be above 0 and at most 1. This setter overrides an earlier
    /// [`without_failure_rate`](Self::without_failure_rate).
    pub fn failure_rate(mut self, rate: f64) -> Self {
        self.settings.failure_rate = Some(rate);
        self
    }

    /// Disables the failure rate as a reason to open the breaker.
    ///
    /// This setter overrides an earlier [`failure_rate`](Self::failure_rate). Another reason must
    /// be set, which is [`slow_calls`](Self::slow_calls) or
    /// [`consecutive_failures`](Self::consecutive_failures).
    pub fn without_failure_rate(mut self) -> Self {
        self.settings.failure_rate = None;
        self
    }

    /// Sets the time from which a call is slow, and the share of slow calls that opens the breaker.
    ///
    /// Default: off.
    ///
    /// A call is slow if it takes `longer_than` or more, even if it succeeds. A slow probe has
    /// failed. `longer_than` must be longer than zero. `rate` must be above 0 and at most 1.
    pub fn slow_calls(mut self, longer_than: Duration, rate: f64) -> Self {
        self.settings.slow_calls = Some(SlowCalls { longer_than, rate });
        self
    }

    /// Sets the number of consecutive failures that opens the breaker.
    ///
    /// Default: off.
    ///
    /// [`minimum_calls`](Self::minimum_calls) does not apply to it. The number must be at least 1.
    pub fn consecutive_failures(mut self, failures: u32) -> Self {
        self.settings.consecutive_failures = Some(failures);
        self
    }

    /// Sets the time that the breaker stays open after the first trip.
    ///
    /// Default: `30 s`.
    ///
    /// Envoy ejects a host for the same time. The failure that opens the breaker may ask for a
    /// longer time ([`RetryHint::After`](crate::RetryHint) or
    /// [`Fault::Overloaded`](crate::Fault)). The breaker then stays open for that time, up to
    /// [`max_open_for`](Self::max_open_for).
    ///
    /// If most of the failures of a trip are a [`Fault::Overloaded`](crate::Fault) that names a
    /// time, such as a 429 or a 503 with `Retry-After`, the breaker stays open for the time that
    /// the last one named, even if that is shorter. The dependency works, and speaks of the rate of
    /// this caller. The shortest such time is 1 s. If the time was too short, the next probes fail.
    /// After five of these trips in a row, without a round of probes that passed, the shortest time
    /// at least doubles with each, up to `open_for`. They do not lengthen the open time after other
    /// failures.
    ///
    /// The time must be longer than zero.
    pub fn open_for(mut self, time: Duration) -> Self {
        self.settings.open_for = time;
        self
    }

    /// Sets the longest time that the breaker stays open, before jitter.
    ///
    /// Default: `5 min`, or [`open_for`](Self::open_for) if that is longer.
    ///
    /// The time must not be shorter than `open_for`.
    pub fn max_open_for(mut self, time: Duration) -> Self {
        self.settings.max_open_for = Some(time);
        self
    }

    /// Sets the factor by which each further trip lengthens the open time.
    ///
    /// Default: `2.0`.
    ///
    /// Once the breaker has stayed closed for as long as it was last open, the next open time is
    /// [`open_for`](Self::open_for) again. The factor must be a finite number of at least 1. It
    /// must be 1 if [`max_open_for`](Self::max_open_for) is set to the same time as `open_for`,
    /// because a larger factor then has no effect.
    pub fn open_growth(mut self, factor: f64) -> Self {
        self.settings.open_growth = Some(factor);
        self
    }

    /// Sets the jitter, which lengthens each open time by a random part of up to this share.
    ///
    /// Default: `0.1`, which is up to 10 % longer.
    ///
    /// Without jitter, all clients of a dependency would probe it at the same time. The share must
    /// be 0 to 1. Zero means no jitter.
    pub fn open_jitter(mut self, share: f64) -> Self {
        self.settings.open_jitter = share;
        self
    }

    /// Sets the number of probes that a half-open breaker admits.
    ///
    /// Default: `3`.
    ///
    /// The success of a single probe could be luck. The number must be at least 1.
    pub fn probes(mut self, probes: u32) -> Self {
        self.settings.probes = probes;
        self
    }

    /// Sets the share of probes that must succeed to close the breaker.
    ///
    /// Default: `0.5`, which is 2 of 3 probes, because the number is rounded up.
    ///
    /// The share must be above 0 and at most 1, because no breaker closes without a success.
    pub fn probe_success_ratio(mut self, ratio: f64) -> Self {
        self.settings.probe_success_ratio = ratio;
        self
    }

    /// Sets the time after which a probe without a response has failed.
    ///
    /// Default: `10 s`.
    ///
    /// This is twice the total timeout of [`Stack::standard`](crate::Stack::standard). The time
    /// must be longer than zero. It should not be shorter than the timeout of a call. Otherwise a
    /// probe fails while its call may still succeed.
    pub fn probe_lease(mut self, time: Duration) -> Self {
        self.settings.probe_lease = time;
        self
    }

    /// Sets the run time from which a call that its caller abandons is a failure at once.
    ///
    /// Default: none. Within a [`Stack`](crate::Stack), a call that ran for the attempt timeout or
    /// the total timeout of the stack is a failure at once.
    ///
    /// A caller abandons a call when it drops the call, or when its deadline ends the call. A
    /// service that respects the deadline may also report the timeout itself. A shorter run counts
    /// only in [silence](super#calls-that-are-cut), because impatient callers must not open a
    /// breaker that all callers share. Set a time if every caller waits for longer than a healthy
    /// dependency takes. The time then also applies to each read of a response body. With zero,
    /// every abandoned call counts. With `Duration::MAX`, none does.
    pub fn abandoned_after(mut self, time: Duration) -> Self {
        self.settings.abandoned_after = Some(time);
        self
    }

    /// Reports `Pending` while the circuit is open instead of rejecting.
    ///
    /// Default: off.
    ///
    /// Use it directly beneath a balancer, which then picks another endpoint, or where the caller
    /// can wait, such as a worker that awaits `ready()`. Never use it beneath a router or a server,
    /// which would wait. [`Stack::explain`](crate::Stack::explain) warns of it, unless
    /// [`under_balancer`](crate::Stack::under_balancer) is set.
    ///
    /// A breaker [by key](Self::keyed_fn) cannot report `Pending`, and its
    /// [`build`](KeyedCircuitBreakerBuilder::build) returns a [`ConfigError`].
    pub fn pend(mut self) -> Self {
        self.settings.pend = true;
        self
    }

    /// Sets the classifier for this layer, overriding the stack's.
    ///
    /// Default: none. The layer uses the stack's classifier. Outside a stack it uses the
    /// [`DefaultClassifier`](crate::outcome::DefaultClassifier).
    pub fn classify<D>(self, classifier: D) -> CircuitBreakerBuilder<Own<D>> {
        CircuitBreakerBuilder { settings: self.settings, classifier: Own(classifier) }
    }

    /// Sets a closure as the classifier for this layer, overriding the stack's.
    ///
    /// Default: none, as for [`classify`](Self::classify).
    pub fn classify_fn<F, Res, E>(self, f: F) -> CircuitBreakerBuilder<Own<ClassifyFn<F>>>
    where
        F: Fn(Result<&Res, &E>) -> Outcome,
    {
        self.classify(classify_fn(f))
    }

    /// Creates a separate breaker for each key that a closure returns.
    ///
    /// Default: none. All calls share one breaker.
    ///
    /// A key is, for example, a host, a tenant or a route. This method returns another builder,
    /// because the services have another type. Call it after the other setters. Their settings
    /// apply to each breaker, and the returned builder does not have these setters.
    pub fn keyed_fn<F, Req, K>(self, key: F) -> KeyedCircuitBreakerBuilder<K, F, C>
    where
        F: Fn(&Req) -> K,
    {
        KeyedCircuitBreakerBuilder::new(self.settings, self.classifier, key)
    }

    /// Checks the settings and builds the layer.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] if a setting is out of range, or if two settings contradict each
    /// other. The error names the setter.
    pub fn build(self) -> Result<CircuitBreakerLayer<C>, ConfigError> {
        let config = self.settings.check()?;
        Ok(CircuitBreakerLayer::from_config(config, Arc::new(self.classifier)))
    }
}
