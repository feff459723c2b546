use std::{ops::Range, sync::Arc, time::Duration};

use tower_layer::Layer;

use super::{
    service::BodyChaos,
    shared::{BodyFault, Shared},
};
use crate::{
    ConfigError,
    chaos::{ChaosHandle, config::Config, switch::Switch},
    error::Name,
    telemetry::Registry,
};

/// A layer that creates [`BodyChaos`] services, whose bodies have faults while the layer is armed.
///
/// A new layer is disarmed. Its clones, and all services that it creates, share its switch. See the
/// [module docs](super) for an example.
#[derive(Clone, Debug)]
pub struct BodyChaosLayer {
    shared: Arc<Shared>,
}

impl BodyChaosLayer {
    /// Returns a builder without faults.
    pub fn builder() -> BodyChaosBuilder {
        BodyChaosBuilder { config: Config::new() }
    }

    /// Returns a handle for arming and disarming the layer at run time.
    pub fn handle(&self) -> ChaosHandle {
        ChaosHandle::new(Arc::clone(&self.shared.switch))
    }

    fn count_in(&self, registry: &Registry) {
        self.shared.switch.register(registry);
    }
}

register!(BodyChaosLayer);

impl<S> Layer<S> for BodyChaosLayer {
    type Service = BodyChaos<S>;

    fn layer(&self, inner: S) -> BodyChaos<S> {
        BodyChaos::new(inner, Arc::clone(&self.shared))
    }
}

/// A builder for a [`BodyChaosLayer`].
///
/// A body has at most one fault. The ratios of all faults together must therefore be at most 1.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct BodyChaosBuilder {
    config: Config<BodyFault>,
}

impl BodyChaosBuilder {
    /// Sets the name of the layer in events and metrics.
    ///
    /// Default: `chaos`.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.config.name = Some(name.into());
        self
    }

    /// Sets the seed of the decisions, as [`ChaosBuilder::seed`](crate::chaos::ChaosBuilder::seed)
    /// does.
    ///
    /// Default: `0`.
    ///
    /// Bodies are numbered in the order in which their responses arrive.
    pub fn seed(mut self, seed: u64) -> Self {
        self.config.seed = seed;
        self
    }

    /// Sets the ratio of bodies that fail with [`ChaosBodyError::Cut`].
    ///
    /// Default: none.
    ///
    /// [`ChaosBodyError::Cut`]: super::ChaosBodyError::Cut
    pub fn cuts(mut self, ratio: f64) -> Self {
        self.config.set("cuts", ratio, None, BodyFault::Cut);
        self
    }

    /// Sets the ratio of bodies that stall after their first frame.
    ///
    /// Default: none.
    ///
    /// A body that still stalls when the layer is disarmed goes on then.
    pub fn stalls(mut self, ratio: f64) -> Self {
        self.config.set("stalls", ratio, None, BodyFault::Stall);
        self
    }

    /// Sets the ratio of bodies that trickle, and the pause before each of their frames.
    ///
    /// Default: none.
    ///
    /// The pause must be longer than zero. It is counted from the response, or from the frame
    /// before.
    pub fn trickles(mut self, ratio: f64, pause: Duration) -> Self {
        self.config.set("trickles", ratio, Some(pause), BodyFault::Trickle(pause));
        self
    }

    /// Sets the times within which faults are injected, as
    /// [`ChaosBuilder::windows`](crate::chaos::ChaosBuilder::windows) does.
    ///
    /// Default: the whole time for which the layer is armed.
    pub fn windows(mut self, windows: impl IntoIterator<Item = Range<Duration>>) -> Self {
        self.config.set_windows(windows);
        self
    }

    /// Sets the maximum number of bodies that stall at one time.
    ///
    /// Default: `1000`.
    ///
    /// While so many stall, a further body that should stall has no fault. A body counts from its
    /// response on. The number must be at least 1.
    pub fn max_hung(mut self, bodies: u32) -> Self {
        self.config.max_hung = bodies;
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
    /// - for `trickles` if its pause is zero;
    /// - for `windows` if there are none, or if one is empty, out of order or ends too late;
    /// - for `max_hung` if it is zero.
    pub fn build(self) -> Result<BodyChaosLayer, ConfigError> {
        let (switch, shares) = Switch::build(self.config)?;
        Ok(BodyChaosLayer { shared: Arc::new(Shared { switch, shares }) })
    }
}
