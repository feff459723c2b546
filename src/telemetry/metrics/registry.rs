//! The registry of layers.

use std::{
    fmt,
    sync::{Arc, LazyLock, Mutex, Weak},
};

use super::{
    super::{
        event::Event,
        log::log_ungated,
        observer::{Observer, Observers},
    },
    family::{Family, Value},
    gather::Gatherer,
    instrument::{INFO, OBSERVER_PANICS, VERSION},
    meter::{Identity, Meter},
    state::Control,
};
use crate::{call::lock::lock, error::Name};

/// A registry of stacks and layers, whose numbers it reads.
///
/// A layer counts from the moment that it is registered. The registry does not keep a layer alive.
/// Layers with the same stack, name and kind count together. They have the same series, and the
/// series end with the last of these layers.
///
/// All clones are the same registry.
///
/// ```
/// use buttress::{Stack, retry::ReplayClones, telemetry::Registry};
///
/// let registry = Registry::new();
/// let stack = Stack::standard(ReplayClones).name("orders").register(&registry);
/// let families = registry.gather();
/// assert!(families.iter().any(|family| family.instrument.name == "buttress.call.duration"));
/// # drop(stack);
/// ```
#[derive(Clone, Default)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    meters: Mutex<Vec<Weak<Meter>>>,
    observers: Arc<Observers>,
}

impl Registry {
    /// Creates an empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the registry of the program, for layers that are created in many places.
    ///
    /// No layer enters it by itself.
    pub fn global() -> &'static Self {
        static GLOBAL: LazyLock<Registry> = LazyLock::new(Registry::new);
        &GLOBAL
    }

    /// Returns the numbers of an identity, which all layers with it share.
    pub(crate) fn meter(&self, identity: Identity) -> Arc<Meter> {
        let mut meters = lock(&self.inner.meters);
        let live = meters.iter().filter_map(Weak::upgrade);
        let known = live.into_iter().find(|meter| *meter.identity() == identity);
        known.unwrap_or_else(|| {
            let meter = Arc::new(Meter::new(identity, Arc::clone(&self.inner.observers)));
            meters.retain(|meter| meter.strong_count() > 0);
            meters.push(Arc::downgrade(&meter));
            meter
        })
    }

    /// Reads all numbers.
    ///
    /// No two series of a family have the same attributes. Nothing is locked while a layer is read.
    pub fn gather(&self) -> Vec<Family> {
        let mut out = Gatherer::new();
        for meter in self.meters() {
            meter.gather(&mut out);
        }
        let panics = self.inner.observers.panics();
        out.put(&OBSERVER_PANICS, Vec::new(), Value::Number(panics as f64));
        out.put(&INFO, vec![(VERSION, env!("CARGO_PKG_VERSION").into())], Value::Number(1.0));
        out.finish()
    }

    fn meters(&self) -> Vec<Arc<Meter>> {
        lock(&self.inner.meters).iter().filter_map(Weak::upgrade).collect()
    }

    /// Adds an observer of the events of all layers. It stays until the registry and its layers are
    /// dropped.
    pub fn observe(&self, observer: impl Observer + 'static) {
        self.inner.observers.add(Box::new(observer));
    }

    /// Returns which layers would reject a call now.
    ///
    /// Use it in a readiness probe to inform. Do not let a liveness probe fail because of it. A
    /// restart does not heal a dependency.
    pub fn ready(&self) -> Readiness {
        let mut unready = Vec::new();
        for meter in self.meters() {
            let reasons = meter.states();
            let Some(reason) = reasons.iter().find_map(|state| state.unready()) else { continue };
            let Identity { stack, layer, kind } = meter.identity().clone();
            unready.push(Unready { stack, layer, kind: kind.as_str(), reason });
        }
        Readiness { unready }
    }

    /// Waits until no call is in any layer that is registered.
    ///
    /// For a shutdown, first stop new calls. A call in a pause of a retry counts, and so does a
    /// response whose body is still being read.
    pub async fn drained(&self) {
        for meter in self.meters() {
            for state in meter.states() {
                if let Some(drained) = state.drained() {
                    drained.await;
                }
            }
        }
    }

    /// Changes all layers with this name by hand, and reports it as an event with the actor.
    ///
    /// `stack` is the name of their stack, or `None` for layers outside of a stack. Returns the
    /// number of layers that were changed. It is zero if there is no such layer, if the change is
    /// not for its kind, or if the value is invalid. A circuit breaker by key is [not
    /// changed](crate::circuit_breaker#telemetry).
    pub fn control(
        &self,
        stack: Option<&str>,
        layer: &str,
        control: Control,
        actor: &str,
    ) -> usize {
        let mut changed = 0;
        for meter in self.meters() {
            let identity = meter.identity();
            let names = (identity.stack.as_ref().map(Name::as_str), identity.layer.as_str());
            if names != (stack, layer) {
                continue;
            }
            let count = meter.states().iter().filter(|state| state.control(control)).count();
            if count > 0 {
                let event = Event::Controlled { control, actor };
                log_ungated(meter.source(), &event);
                meter.tell(&event);
            }
            changed += count;
        }
        changed
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meters = self.meters();
        f.debug_list().entries(meters.iter().map(|meter| meter.identity())).finish()
    }
}

/// The layers that would reject a call, returned by [`Registry::ready`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Readiness {
    /// The layers.
    pub unready: Vec<Unready>,
}

impl Readiness {
    /// Returns `true` if no layer would reject a call.
    pub fn is_ready(&self) -> bool {
        self.unready.is_empty()
    }
}

/// A layer that would reject a call.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Unready {
    /// The name of its stack, if it is in one with a name.
    pub stack: Option<Name>,
    /// The name of the layer.
    pub layer: Name,
    /// The kind of the layer, such as `circuit_breaker`.
    pub kind: &'static str,
    /// The reason, such as `forced_open`.
    pub reason: &'static str,
}
