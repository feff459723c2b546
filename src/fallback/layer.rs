use std::{any::type_name, fmt, future::Future, sync::Arc, time::Duration};

use tower_layer::Layer;

use super::{
    config::Config,
    handle::FallbackHandle,
    other_service::{self, FallbackService},
    service::Fallback,
    shared::Shared,
    source::{self, FallbackFn, FallbackValue},
    state::State,
};
use crate::{
    ConfigError, Outcome,
    call::{degraded::Reason, reserve::Reserve},
    classify_fn,
    error::Name,
    outcome::{
        ClassifyFn,
        choice::{ChooseClassifier, Inherited, Own},
    },
    telemetry::{Kind, Registry, ReporterCell, Reporters},
};

/// A layer that creates [`Fallback`] services, which respond when their service cannot.
///
/// Its handle can switch the service off. The clones of the layer, and all services that it
/// creates, share this switch. See the [module docs](super) for examples.
pub struct FallbackLayer<R, C = Inherited> {
    source: Arc<R>,
    classifier: Arc<C>,
    state: Arc<State>,
}

impl<T> FallbackLayer<FallbackValue<T>> {
    /// Creates a layer that responds with a clone of a value.
    pub fn value(value: T) -> Self {
        Self::new(source::value(value))
    }
}

impl<G, F> FallbackLayer<FallbackFn<G, F>> {
    /// Creates a layer that responds with the result of a closure.
    ///
    /// `keep` runs before each call, and returns what `respond` needs of the request. `|_| ()`
    /// keeps nothing. `respond` gets the kept value and the [`Reason`]. It returns a future of the
    /// response, or of `None` if there is none for this call. The result of the call then stands.
    pub fn from_fn<Req, K, Fut, Res>(keep: G, respond: F) -> Self
    where
        G: Fn(&Req) -> K,
        F: Fn(K, Reason) -> Fut,
        Fut: Future<Output = Option<Res>>,
    {
        Self::new(source::from_fn(keep, respond))
    }
}

impl<P, B> FallbackLayer<FallbackService<P, B>> {
    /// Creates a layer that sends a copy of the request to another service.
    ///
    /// `replay` copies the requests, like that of a [retry](crate::retry). A request that must not
    /// be repeated goes to the other service only if the first one has provably not begun it, see
    /// [`nothing_began`](crate::Rejection::nothing_began). The source [`service`](super::service)
    /// has the details.
    pub fn service(replay: P, service: B) -> Self {
        Self::new(other_service::service(replay, service))
    }
}

impl<R> FallbackLayer<R> {
    /// Creates a layer with the default settings.
    ///
    /// [`value`](super::value), [`from_fn`](super::from_fn) and [`service`](super::service) create
    /// the source of its responses.
    pub fn new(source: R) -> Self {
        let config = Config::default();
        let reserve = Reserve::up_to(config.limit);
        Self::from_checked(source, Inherited, (config, reserve))
    }

    /// Returns a builder with the default settings.
    pub fn builder(source: R) -> FallbackBuilder<R> {
        FallbackBuilder { source, classifier: Inherited, config: Config::default() }
    }
}

impl<R, C> FallbackLayer<R, C> {
    fn from_checked(source: R, classifier: C, checked: (Config, Reserve)) -> Self {
        let state = Arc::new(State::new(checked));
        Self { source: Arc::new(source), classifier: Arc::new(classifier), state }
    }

    /// Returns a handle for switching the service off, and for inspecting the fallback.
    pub fn handle(&self) -> FallbackHandle {
        FallbackHandle::new(Arc::clone(&self.state))
    }

    /// Creates a service. `M` decides when a call is complete.
    pub(crate) fn completing<S, M>(&self, inner: S) -> Fallback<S, R, C, M> {
        let (source, classifier) = (Arc::clone(&self.source), Arc::clone(&self.classifier));
        let shared = Shared { source, classifier, state: Arc::clone(&self.state) };
        Fallback::new(inner, Arc::new(shared))
    }

    /// Returns the same layer with the classifier of a stack, unless it has its own.
    pub(crate) fn in_stack<D>(&self, stacked: &Arc<D>) -> FallbackLayer<R, C::Chosen>
    where
        C: ChooseClassifier<D>,
    {
        let (source, state) = (Arc::clone(&self.source), Arc::clone(&self.state));
        FallbackLayer { source, classifier: C::choose(&self.classifier, stacked), state }
    }

    /// Takes the names and the registry of a stack.
    pub(crate) fn inherit(&self, stack: &Reporters) {
        self.state.inherit(stack);
    }

    fn count_in(&self, registry: &Registry) {
        self.state.register(registry);
    }

    /// Returns a layer with the same settings and a switch of its own, which is on.
    pub(crate) fn fresh(&self) -> Self {
        Self { state: Arc::new(self.state.fresh()), ..self.clone() }
    }

    pub(super) fn limit(&self) -> Duration {
        self.state.limit()
    }
}

register!(FallbackLayer<R, C>);

impl<R, C> Clone for FallbackLayer<R, C> {
    fn clone(&self) -> Self {
        let (source, classifier) = (Arc::clone(&self.source), Arc::clone(&self.classifier));
        Self { source, classifier, state: Arc::clone(&self.state) }
    }
}

impl<R, C> fmt::Debug for FallbackLayer<R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FallbackLayer")
            .field("source", &format_args!("{}", type_name::<R>()))
            .field("classifier", &format_args!("{}", type_name::<C>()))
            .field("state", &self.state)
            .finish()
    }
}

impl<S, R, C> Layer<S> for FallbackLayer<R, C> {
    type Service = Fallback<S, R, C>;

    fn layer(&self, inner: S) -> Self::Service {
        self.completing(inner)
    }
}

/// A builder for a [`FallbackLayer`].
///
/// [`build`](Self::build) returns a [`ConfigError`] for an invalid setting.
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct FallbackBuilder<R, C = Inherited> {
    source: R,
    classifier: C,
    config: Config,
}

impl<R, C> FallbackBuilder<R, C> {
    /// Sets the name of the layer in errors and events.
    ///
    /// Default: `fallback`. In a stack with a name, it is that of the stack.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.config.reporter = ReporterCell::new(Some(name.into()), Kind::Fallback);
        self
    }

    /// Sets the longest time that the fallback may take.
    ///
    /// Default: `1 s`.
    ///
    /// It does not apply to a [`value`](super::value), which takes no time. The limit must be
    /// longer than zero. `Duration::MAX` sets no limit.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.config.limit = limit;
        self
    }

    /// Falls back after a [permanent](crate::Fault::Permanent) failure too.
    ///
    /// Default: off, because the fallback would hide a mistake, such as a wrong request.
    ///
    /// It cannot be set together with [`when_fn`](Self::when_fn).
    pub fn also_permanent(mut self) -> Self {
        self.config.also_permanent = true;
        self
    }

    /// Sets a function that chooses the failures and rejections that fall back.
    ///
    /// Default: none. These fall back: [`Transient`](crate::Fault::Transient),
    /// [`TimedOut`](crate::Fault::TimedOut) and [`Overloaded`](crate::Fault::Overloaded) failures,
    /// and rejections for which [`is_unavailable`](crate::Rejection::is_unavailable) is `true`.
    ///
    /// The function replaces these rules. It is not called for a success or for a result that the
    /// classifier ignores. While the service is switched off, every call falls back without it.
    pub fn when_fn<F>(mut self, f: F) -> Self
    where
        F: Fn(&Reason) -> bool + Send + Sync + 'static,
    {
        self.config.when = Some(Arc::new(f));
        self
    }

    /// Sets the share of the caller's time that is reserved for the fallback.
    ///
    /// Default: `0.1`.
    ///
    /// If the caller has a [deadline](crate::Deadline), the layer ends the call before it, by this
    /// share of the time that is left, and at most by the [`limit`](Self::limit). The deadline
    /// would otherwise end the call without a fallback. The layer ends a fallback before the
    /// deadline in the same way, so that the caller learns why the call has failed. The share must
    /// be at least 0, which reserves nothing, and less than 1.
    pub fn reserve(mut self, ratio: f64) -> Self {
        self.config.reserve = ratio;
        self
    }

    /// Sets the classifier for this layer, overriding the stack's.
    ///
    /// Default: none. The layer uses the stack's classifier. Outside a stack, `Ok` is a success
    /// and `Err` is a transient failure.
    pub fn classify<D>(self, classifier: D) -> FallbackBuilder<R, Own<D>> {
        let Self { source, config, .. } = self;
        FallbackBuilder { source, classifier: Own(classifier), config }
    }

    /// Sets a closure as the classifier for this layer, overriding the stack's.
    ///
    /// Default: none, as for [`classify`](Self::classify).
    pub fn classify_fn<F, Res, E>(self, f: F) -> FallbackBuilder<R, Own<ClassifyFn<F>>>
    where
        F: Fn(Result<&Res, &E>) -> Outcome,
    {
        self.classify(classify_fn(f))
    }

    /// Checks the settings and builds the layer.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`]
    ///
    /// - for `limit` if it is zero;
    /// - for `reserve` if it is negative, or 1 or more;
    /// - for `also_permanent` if `when_fn` was set too.
    pub fn build(self) -> Result<FallbackLayer<R, C>, ConfigError> {
        let Self { source, classifier, config } = self;
        Ok(FallbackLayer::from_checked(source, classifier, config.checked()?))
    }
}

impl<R, C> fmt::Debug for FallbackBuilder<R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FallbackBuilder")
            .field("source", &format_args!("{}", type_name::<R>()))
            .field("classifier", &format_args!("{}", type_name::<C>()))
            .field("config", &self.config)
            .finish()
    }
}
