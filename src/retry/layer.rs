use std::{
    any::type_name,
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use tower_layer::Layer;

use super::{config::Config, service::Retry};
use crate::{
    ConfigError, Outcome,
    backoff::Backoff,
    budget::Budget,
    classify_fn,
    error::Name,
    outcome::{
        ClassifyFn,
        choice::{ChooseClassifier, Inherited, Own},
    },
    telemetry::{Kind, LayerState, Registry, ReporterCell, Reporters},
};

/// A layer that retries calls by wrapping services in [`Retry`].
///
/// Clones of the layer, and all services that it creates, share one budget. See the [module
/// docs](super) for an example.
pub struct RetryLayer<P, C = Inherited> {
    config: Arc<Config>,
    replay: Arc<P>,
    classifier: Arc<C>,
    own_limit: Option<Duration>,
}

impl<P> RetryLayer<P> {
    /// Creates a layer that retries the requests that the policy `replay` allows.
    ///
    /// All other settings have the defaults that [`RetryBuilder`] names.
    pub fn new(replay: P) -> Self {
        Self::builder(replay).finish()
    }

    /// Returns a builder, to change the defaults.
    pub fn builder(replay: P) -> RetryBuilder<P> {
        RetryBuilder { config: Config::default(), replay, classifier: Inherited }
    }
}

impl<P, C> RetryLayer<P, C> {
    /// Creates the service. `M` decides when a call is complete.
    pub(crate) fn completing<S: Clone, M>(&self, inner: S) -> Retry<S, P, C, M> {
        let (config, replay) = (Arc::clone(&self.config), Arc::clone(&self.replay));
        Retry::new(inner, config, replay, Arc::clone(&self.classifier), self.own_limit)
    }

    /// Returns a layer with the same settings and a budget of its own.
    pub(crate) fn fresh(&self) -> Self {
        let budget = self.config.budget.as_ref().map(Budget::fresh);
        let reporter = self.config.reporter.fresh();
        let config = Config { budget, reporter, ..(*self.config).clone() };
        Self { config: Arc::new(config), ..self.clone() }
    }

    pub(super) fn replay(&self) -> &P {
        &self.replay
    }

    pub(super) fn retries(&self) -> u32 {
        self.config.retries
    }

    pub(super) fn backoff(&self) -> &Backoff {
        &self.config.backoff
    }

    pub(super) fn hint_cap(&self) -> Duration {
        self.config.hint_cap
    }

    pub(super) fn readiness_wait(&self) -> Duration {
        self.config.readiness_wait
    }

    /// Returns the budget, or `None` if there is none.
    ///
    /// Pass it to another layer that calls the same dependency. It also serves as the handle of
    /// this layer, because its balance is the only state to inspect.
    pub fn budget(&self) -> Option<&Budget> {
        self.config.budget.as_ref()
    }

    /// Takes the names and the registry of a stack.
    pub(crate) fn inherit(&self, stack: &Reporters) {
        self.config.reporter.inherit(stack, || self.state());
    }

    fn count_in(&self, registry: &Registry) {
        self.config.reporter.register(registry, self.state());
    }

    fn state(&self) -> Option<Weak<dyn LayerState>> {
        self.budget().map(Budget::state)
    }

    /// Returns the same layer, with the stack's classifier unless it has its own.
    ///
    /// `own_limit` is the limit of the stack for each call or attempt.
    pub(crate) fn in_stack<Stacked>(
        &self,
        stacked: &Arc<Stacked>,
        own_limit: Option<Duration>,
    ) -> RetryLayer<P, C::Chosen>
    where
        C: ChooseClassifier<Stacked>,
    {
        RetryLayer {
            config: Arc::clone(&self.config),
            replay: Arc::clone(&self.replay),
            classifier: C::choose(&self.classifier, stacked),
            own_limit,
        }
    }
}

register!(RetryLayer<P, C>);

impl<P, C> Clone for RetryLayer<P, C> {
    fn clone(&self) -> Self {
        Self {
            config: Arc::clone(&self.config),
            replay: Arc::clone(&self.replay),
            classifier: Arc::clone(&self.classifier),
            own_limit: self.own_limit,
        }
    }
}

impl<P, C> fmt::Debug for RetryLayer<P, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryLayer")
            .field("config", &self.config)
            .field("replay", &format_args!("{}", type_name::<P>()))
            .field("classifier", &format_args!("{}", type_name::<C>()))
            .finish()
    }
}

impl<S: Clone, P, C> Layer<S> for RetryLayer<P, C> {
    type Service = Retry<S, P, C>;

    fn layer(&self, inner: S) -> Retry<S, P, C> {
        self.completing(inner)
    }
}

/// A builder for a [`RetryLayer`].
///
/// [`build`](Self::build) returns a [`ConfigError`] for an invalid setting.
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct RetryBuilder<P, C = Inherited> {
    config: Config,
    replay: P,
    classifier: C,
}

impl<P, C> RetryBuilder<P, C> {
    /// Sets the name of the layer in errors and events.
    ///
    /// Default: `retry`. In a stack with a name, it is that of the stack.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.config.reporter = ReporterCell::new(Some(name.into()), Kind::Retry);
        self
    }

    /// Sets the maximum number of retries of a call, not counting the first attempt.
    ///
    /// Default: `3`.
    ///
    /// Zero disables retries, so a deployment can switch them off by configuration. The layer then
    /// keeps no requests, and does not even resend a request that was [not
    /// processed](crate::retry#unprocessed-requests).
    pub fn retries(mut self, retries: u32) -> Self {
        self.config.retries = retries;
        self
    }

    /// Sets the pauses before the retries.
    ///
    /// Default: `Backoff::default()`. The pauses start at 50 ms and double up to 1 s, with full
    /// jitter.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.config.backoff = backoff;
        self
    }

    /// Sets the budget, which limits retries to a share of the calls.
    ///
    /// Default: `Budget::default()`. It allows ten retries at the start, and one more for every ten
    /// calls.
    ///
    /// It replaces an earlier [`without_budget`](Self::without_budget).
    pub fn budget(mut self, budget: Budget) -> Self {
        self.config.budget = Some(budget);
        self
    }

    /// Removes the budget, so that only [`retries`](Self::retries) limits the retries.
    ///
    /// A dependency that is down then receives up to `retries + 1` times its normal load.
    ///
    /// It replaces an earlier [`budget`](Self::budget).
    pub fn without_budget(mut self) -> Self {
        self.config.budget = None;
        self
    }

    /// Sets the longest pause that a server may ask for, before jitter.
    ///
    /// Default: `2 s`.
    ///
    /// If the server asks for a longer pause, the call is not retried, because its caller should
    /// know at once. With zero, a call is not retried if the server asks for any pause at all.
    pub fn hint_cap(mut self, cap: Duration) -> Self {
        self.config.hint_cap = cap;
        self
    }

    /// Sets how long a retry waits for the service to become ready again.
    ///
    /// Default: `1 s`.
    ///
    /// It must be longer than zero, because a service that is ready only at the second poll could
    /// otherwise never be called again. `Duration::MAX` sets no limit.
    pub fn readiness_wait(mut self, wait: Duration) -> Self {
        self.config.readiness_wait = wait;
        self
    }

    /// Sets the classifier for this layer, overriding the stack's.
    ///
    /// Default: none. The layer uses the stack's classifier. Outside a stack, `Ok` is a success
    /// and `Err` is a transient failure.
    pub fn classify<D>(self, classifier: D) -> RetryBuilder<P, Own<D>> {
        RetryBuilder { config: self.config, replay: self.replay, classifier: Own(classifier) }
    }

    /// Sets a function as the classifier for this layer, overriding the stack's.
    ///
    /// Default: none, as for [`classify`](Self::classify).
    pub fn classify_fn<F, Res, E>(self, f: F) -> RetryBuilder<P, Own<ClassifyFn<F>>>
    where
        F: Fn(Result<&Res, &E>) -> Outcome,
    {
        self.classify(classify_fn(f))
    }

    /// Validates the settings and returns the layer.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] if [`readiness_wait`](Self::readiness_wait) is zero. The
    /// builders of the backoff and the budget validate the other settings.
    pub fn build(self) -> Result<RetryLayer<P, C>, ConfigError> {
        let config = self.config.checked()?;
        Ok(Self { config, ..self }.finish())
    }

    fn finish(self) -> RetryLayer<P, C> {
        RetryLayer {
            config: Arc::new(self.config),
            replay: Arc::new(self.replay),
            classifier: Arc::new(self.classifier),
            own_limit: None,
        }
    }
}

impl<P, C> fmt::Debug for RetryBuilder<P, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryBuilder")
            .field("config", &self.config)
            .field("replay", &format_args!("{}", type_name::<P>()))
            .field("classifier", &format_args!("{}", type_name::<C>()))
            .finish()
    }
}
