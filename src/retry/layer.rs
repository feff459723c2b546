use std::{any::type_name, fmt, sync::Arc, time::Duration};

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
};

/// Retries calls, by making [`Retry`] services. See the [module docs](super) for an example.
///
/// The layer *is* the budget: clones of it, and all services that it makes, share one.
pub struct RetryLayer<P, C = Inherited> {
    config: Arc<Config>,
    replay: Arc<P>,
    classifier: Arc<C>,
}

impl<P> RetryLayer<P> {
    /// Retries what `replay` gives a copy of, with the defaults that [`builder`](Self::builder) names.
    pub fn new(replay: P) -> Self {
        Self::builder(replay).finish()
    }

    /// Settings other than the defaults.
    pub fn builder(replay: P) -> RetryBuilder<P> {
        RetryBuilder { config: Config::default(), replay, classifier: Inherited }
    }
}

impl<P, C> RetryLayer<P, C> {
    /// The service, with calls that end as `M` says.
    pub(crate) fn completing<S: Clone, M>(&self, inner: S) -> Retry<S, P, C, M> {
        let classifier = Arc::clone(&self.classifier);
        Retry::new(inner, Arc::clone(&self.config), Arc::clone(&self.replay), classifier)
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

    /// The budget, for another layer that calls the same dependency; `None` if there is none.
    ///
    /// It is also the handle of the layer: it is shared, and its balance is all there is to
    /// inspect.
    pub fn budget(&self) -> Option<&Budget> {
        self.config.budget.as_ref()
    }

    /// The same layer, with the stack's classifier where it has none of its own.
    pub(crate) fn in_stack<Stacked>(&self, stacked: &Arc<Stacked>) -> RetryLayer<P, C::Chosen>
    where
        C: ChooseClassifier<Stacked>,
    {
        RetryLayer {
            config: Arc::clone(&self.config),
            replay: Arc::clone(&self.replay),
            classifier: C::choose(&self.classifier, stacked),
        }
    }
}

impl<P, C> Clone for RetryLayer<P, C> {
    fn clone(&self) -> Self {
        Self {
            config: Arc::clone(&self.config),
            replay: Arc::clone(&self.replay),
            classifier: Arc::clone(&self.classifier),
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

/// Settings of a [`RetryLayer`].
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
    /// Default: `retry`.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.config.name = Some(name.into());
        self
    }

    /// Sets how often a call is sent again at most, the first attempt not counted.
    ///
    /// Default: `3`.
    ///
    /// Zero switches retrying off, so that a deployment can do so by its configuration. What the
    /// service says it has not processed is sent again once even then.
    pub fn retries(mut self, retries: u32) -> Self {
        self.config.retries = retries;
        self
    }

    /// Sets the pauses before the retries.
    ///
    /// Default: [`Backoff::default`], from 50 ms, doubling up to 1 s, with full jitter.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.config.backoff = backoff;
        self
    }

    /// Sets what share of the calls may be retried.
    ///
    /// Default: [`Budget::default`], one retry in ten calls and ten to begin with.
    ///
    /// It replaces an earlier [`without_budget`](Self::without_budget).
    pub fn budget(mut self, budget: Budget) -> Self {
        self.config.budget = Some(budget);
        self
    }

    /// Retries every call that fails. When a dependency fails as a whole it then gets `retries` times
    /// its load on top.
    ///
    /// It replaces an earlier [`budget`](Self::budget).
    pub fn without_budget(mut self) -> Self {
        self.config.budget = None;
        self
    }

    /// Sets the longest pause that a server may ask for, jitter apart.
    ///
    /// Default: `2 s`.
    ///
    /// A call that would have to wait longer is not retried: a caller that must wait longer should
    /// hear so at once. With zero, a failure whose server asks for any pause is not retried.
    pub fn hint_cap(mut self, cap: Duration) -> Self {
        self.config.hint_cap = cap;
        self
    }

    /// Sets how long a retry waits for the service to become ready again.
    ///
    /// Default: `1 s`.
    ///
    /// It must be longer than zero: a service that is ready only at the second poll could never be
    /// called again. `Duration::MAX` is no limit.
    pub fn readiness_wait(mut self, wait: Duration) -> Self {
        self.config.readiness_wait = wait;
        self
    }

    /// Who judges the results, whatever the stack says.
    pub fn classify<D>(self, classifier: D) -> RetryBuilder<P, Own<D>> {
        RetryBuilder { config: self.config, replay: self.replay, classifier: Own(classifier) }
    }

    /// Judges the results by a function, whatever the stack says.
    pub fn classify_fn<F, Res, E>(self, f: F) -> RetryBuilder<P, Own<ClassifyFn<F>>>
    where
        F: Fn(Result<&Res, &E>) -> Outcome,
    {
        self.classify(classify_fn(f))
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// If a retry may not wait for readiness at all. What else could be wrong is checked where the
    /// backoff and the budget are made.
    pub fn build(self) -> Result<RetryLayer<P, C>, ConfigError> {
        let config = self.config.checked()?;
        Ok(Self { config, ..self }.finish())
    }

    fn finish(self) -> RetryLayer<P, C> {
        RetryLayer {
            config: Arc::new(self.config),
            replay: Arc::new(self.replay),
            classifier: Arc::new(self.classifier),
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
