use std::{fmt, ops::Range, sync::Arc, time::Duration};

use tower_layer::Layer;

use super::{
    config::Config,
    faults::{Closure, Fault, Unset},
    handle::ChaosHandle,
    service::Chaos,
    shared::Shared,
    switch::Switch,
};
use crate::{ConfigError, error::Name, telemetry::Registry};

/// A layer that creates [`Chaos`] services, which inject faults while the layer is armed.
///
/// A new layer is disarmed. Its clones, and all services that it creates, share its switch and the
/// numbers of the calls. See the [module docs](super) for an example.
pub struct ChaosLayer<E = Unset, R = Unset, P = Unset> {
    shared: Arc<Shared<E, R, P>>,
}

impl ChaosLayer {
    /// Returns a builder without faults.
    pub fn builder() -> ChaosBuilder {
        ChaosBuilder { config: Config::new(), error: Unset, response: Unset, partition: Unset }
    }
}

impl<E, R, P> ChaosLayer<E, R, P> {
    /// Returns a handle for arming and disarming the layer at run time.
    pub fn handle(&self) -> ChaosHandle {
        ChaosHandle::new(Arc::clone(&self.shared.switch))
    }

    fn count_in(&self, registry: &Registry) {
        self.shared.switch.register(registry);
    }
}

register!(ChaosLayer<E, R, P>);

impl<E, R, P> Clone for ChaosLayer<E, R, P> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<E: fmt::Debug, R: fmt::Debug, P: fmt::Debug> fmt::Debug for ChaosLayer<E, R, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ChaosLayer").field(&self.shared).finish()
    }
}

impl<S, E, R, P> Layer<S> for ChaosLayer<E, R, P> {
    type Service = Chaos<S, E, R, P>;

    fn layer(&self, inner: S) -> Self::Service {
        Chaos::new(inner, Arc::clone(&self.shared))
    }
}

/// A builder for a [`ChaosLayer`].
///
/// A call has at most one fault. The ratios of all faults together must therefore be at most 1.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct ChaosBuilder<E = Unset, R = Unset, P = Unset> {
    config: Config<Fault>,
    error: E,
    response: R,
    partition: P,
}

impl<E, R, P> ChaosBuilder<E, R, P> {
    /// Sets the name of the layer in events and metrics.
    ///
    /// Default: `chaos`.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.config.name = Some(name.into());
        self
    }

    /// Sets the seed of the decisions.
    ///
    /// Default: `0`.
    ///
    /// The seed and the number of a call decide on its fault. Two runs with the same seed inject
    /// the same faults for the same numbers, on any number of threads. Calls are numbered in the
    /// order in which they reach the layer, so concurrent calls may swap their faults.
    pub fn seed(mut self, seed: u64) -> Self {
        self.config.seed = seed;
        self
    }

    /// Sets the ratio of calls that reach the service late, and the delay.
    ///
    /// Default: none.
    ///
    /// The ratio is between 0 and 1. The delay must be longer than zero.
    pub fn delays(mut self, ratio: f64, delay: Duration) -> Self {
        self.config.set("delays", ratio, Some(delay), Fault::Delay(delay));
        self
    }

    /// Sets the ratio of calls that fail without reaching the service, and their error.
    ///
    /// Default: none.
    ///
    /// The closure returns the error of the service, or a type that converts into it. In a stack
    /// the error is classified like any other. An error of hyper's client cannot be created. Use
    /// another fault, or box the errors of the client (`.map_err(BoxError::from)`).
    pub fn errors_fn<F, T>(mut self, ratio: f64, error: F) -> ChaosBuilder<Closure<F>, R, P>
    where
        F: Fn() -> T,
    {
        self.config.set("errors_fn", ratio, None, Fault::Error);
        let Self { config, response, partition, .. } = self;
        ChaosBuilder { config, error: Closure(error), response, partition }
    }

    /// Sets the ratio of calls that get a made-up response without reaching the service.
    ///
    /// Default: none.
    ///
    /// The closure returns the response, such as one with the status 503.
    pub fn responses_fn<F, Req, Res>(
        mut self,
        ratio: f64,
        response: F,
    ) -> ChaosBuilder<E, Closure<F>, P>
    where
        F: Fn(&Req) -> Res,
    {
        self.config.set("responses_fn", ratio, None, Fault::Response);
        let Self { config, error, partition, .. } = self;
        ChaosBuilder { config, error, response: Closure(response), partition }
    }

    /// Sets the ratio of calls that hang and do not reach the service.
    ///
    /// Default: none.
    ///
    /// A call that still hangs when the layer is disarmed is sent to the service then.
    pub fn hangs(mut self, ratio: f64) -> Self {
        self.config.set("hangs", ratio, None, Fault::Hang);
        self
    }

    /// Sets the ratio of calls that take effect at once, and whose response is late by `delay`.
    ///
    /// Default: none.
    ///
    /// The delay begins when the service responds, and must be longer than zero. An error of the
    /// service is returned at once.
    pub fn late_responses(mut self, ratio: f64, delay: Duration) -> Self {
        self.config.set("late_responses", ratio, Some(delay), Fault::LateResponse(delay));
        self
    }

    /// Sets the ratio of calls that take effect, but whose response does not arrive.
    ///
    /// Default: none.
    ///
    /// The service runs, and then the call hangs. This fault shows whether a retry repeats an
    /// effect. If the call still hangs when the layer is disarmed, it gets its response then. An
    /// error of the service is returned at once.
    pub fn lost_responses(mut self, ratio: f64) -> Self {
        self.config.set("lost_responses", ratio, None, Fault::LostResponse);
        self
    }

    /// Sets a closure that selects the requests that do not reach the service.
    ///
    /// Default: none.
    ///
    /// Each call for which it returns `true` hangs, as with [`hangs`](Self::hangs), and has no
    /// other fault. These calls are not part of the ratios.
    pub fn partition_fn<F, Req>(self, separates: F) -> ChaosBuilder<E, R, Closure<F>>
    where
        F: Fn(&Req) -> bool,
    {
        let Self { config, error, response, .. } = self;
        ChaosBuilder { config, error, response, partition: Closure(separates) }
    }

    /// Sets the times within which faults are injected, counted from when the layer was armed.
    ///
    /// Default: the whole time for which the layer is armed.
    ///
    /// Use them for an outage that begins and ends by itself. At the end of a window, the calls
    /// that are held continue. There must be at least one window. The windows must not be empty,
    /// must be in order without overlap, and must end within one hour.
    ///
    /// ```
    /// use buttress::chaos::ChaosLayer;
    /// use std::time::Duration;
    ///
    /// let seconds = Duration::from_secs;
    /// let windows = [seconds(10)..seconds(20), seconds(60)..seconds(90)];
    /// let layer = ChaosLayer::builder().hangs(1.0).windows(windows).build()?;
    /// # let _ = layer;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn windows(mut self, windows: impl IntoIterator<Item = Range<Duration>>) -> Self {
        self.config.set_windows(windows);
        self
    }

    /// Sets the maximum number of calls that hang at one time.
    ///
    /// Default: `1000`.
    ///
    /// It bounds the memory and the tasks that an armed layer can take. While so many calls hang,
    /// no further call does. A call that should hang, that should lose its response, or that a
    /// partition selects has no fault then, and reaches the service. Beneath a
    /// [bulkhead](crate::bulkhead) with a lower limit, this never happens. A call that is only
    /// delayed does not count. The number must be at least 1.
    pub fn max_hung(mut self, calls: u32) -> Self {
        self.config.max_hung = calls;
        self
    }

    /// Checks the settings and builds the layer, which is disarmed.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`]
    ///
    /// - for a setter with a ratio that is below 0, above 1 or not a number;
    /// - for the setter at which the ratios of all faults together become more than 1;
    /// - for `delays` or `late_responses` if its delay is zero;
    /// - for `windows` if there are none, or if one is empty, out of order or ends too late;
    /// - for `max_hung` if it is zero.
    pub fn build(self) -> Result<ChaosLayer<E, R, P>, ConfigError> {
        let Self { config, error, response, partition } = self;
        let (switch, shares) = Switch::build(config)?;
        let shared = Arc::new(Shared { switch, shares, error, response, partition });
        Ok(ChaosLayer { shared })
    }
}
