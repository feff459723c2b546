//! The registry of layers.

use std::{
    collections::HashMap,
    fmt,
    future::{Future, poll_fn},
    pin::pin,
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

/// A registry that counts what stacks and layers do.
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
    meters: Mutex<HashMap<Identity, Weak<Meter>>>,
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
    pub(crate) fn meter(&self, mut identity: Identity) -> Arc<Meter> {
        // An empty name is none. Prometheus takes an empty label for a missing one, and would find
        // two equal series.
        identity.stack = identity.stack.filter(|name| !name.as_str().is_empty());
        if identity.layer.as_str().is_empty() {
            identity.layer = identity.kind.as_str().into();
        }
        let mut meters = lock(&self.inner.meters);
        let known = meters.get(&identity).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let observers = Arc::clone(&self.inner.observers);
            let meter = Arc::new(Meter::new(identity.clone(), observers));
            if meters.len() == meters.capacity() {
                meters.retain(|_, meter| meter.strong_count() > 0);
            }
            meters.insert(identity, Arc::downgrade(&meter));
            meter
        })
    }

    /// Reads all metrics.
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
        lock(&self.inner.meters).values().filter_map(Weak::upgrade).collect()
    }

    /// Adds an observer of the events of all layers. It stays until the registry and its layers are
    /// dropped.
    pub fn observe(&self, observer: impl Observer + 'static) {
        self.inner.observers.add(Box::new(observer));
    }

    /// Returns which layers would reject every call now, and why.
    ///
    /// These are open circuit breakers and closed idempotency layers. Several layers with one name,
    /// such as those of a [stack by key](crate::Stack::by_key), are named only if each of them
    /// would. Use it in a readiness probe to inform. All instances usually see the same outage, so
    /// respond 503 only for a dependency without which no request can be served. Do not let a
    /// liveness probe fail because of it. A restart does not heal a dependency.
    ///
    #[cfg_attr(feature = "http", doc = "```")]
    #[cfg_attr(not(feature = "http"), doc = "```text")]
    /// use buttress::telemetry::Registry;
    /// use http::{Request, Response, StatusCode};
    /// use std::convert::Infallible;
    /// use tower::{Service, service_fn};
    ///
    /// /// Answers `GET /readyz`.
    /// fn readiness<B>(
    ///     registry: Registry,
    /// ) -> impl Service<Request<B>, Response = Response<String>, Error = Infallible> + Clone {
    ///     service_fn(move |_: Request<B>| {
    ///         let readiness = registry.ready();
    ///         let lines = readiness.unready.iter().map(|it| {
    ///             let stack = it.stack.as_ref().map_or("-", |stack| stack.as_str());
    ///             format!("{stack} {} {}: {}\n", it.layer.as_str(), it.kind, it.reason)
    ///         });
    ///         let mut response = Response::new(lines.collect());
    ///         // Nothing works without the accounts, while other outages only degrade.
    ///         if readiness.unready.iter().any(|it| it.layer.as_str() == "accounts") {
    ///             *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    ///         }
    ///         async move { Ok(response) }
    ///     })
    /// }
    ///
    /// let service = readiness::<String>(Registry::new());
    /// # let _ = service;
    /// ```
    pub fn ready(&self) -> Readiness {
        let mut unready = Vec::new();
        for meter in self.meters() {
            let states = meter.states();
            let reasons: Option<Vec<_>> = states.iter().map(|state| state.unready()).collect();
            let Some(reason) = reasons.and_then(|all| all.first().copied()) else { continue };
            let Identity { stack, layer, kind } = meter.identity().clone();
            unready.push(Unready { stack, layer, kind: kind.as_str(), reason });
        }
        Readiness { unready }
    }

    /// Waits until no call is in any layer that is registered.
    ///
    /// For a shutdown, first stop new calls, and
    /// [close](crate::idempotency::IdempotencyHandle::close) the idempotency layers. These calls
    /// count:
    ///
    /// - a call of a stack, until its future has ended. A call in a pause of a retry counts too. If
    ///   its response has a body, it counts until the body has ended or was dropped;
    /// - a call that holds a slot of a bulkhead or waits for one;
    /// - a run of an idempotency layer, even if its caller has left;
    /// - a call that callers of a cache share, even if they have left.
    ///
    /// A timeout, a retry or a breaker outside of a stack does not know its calls.
    ///
    /// The wait ends when all layers were empty, one after the other, and none of them had to be
    /// waited for meanwhile. New calls are waited for too, and so are layers that are registered
    /// later. A layer that is dropped is not waited for any longer than its calls.
    ///
    /// # Cancellation
    ///
    /// Dropping the future stops only the wait.
    ///
    /// ```
    /// use buttress::{Stack, telemetry::Registry};
    /// use std::time::Duration;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let registry = Registry::new();
    /// let stack = Stack::new().name("orders").register(&registry);
    /// // The server accepts no more requests. The calls in flight get at most 10 s.
    /// let drained = tokio::time::timeout(Duration::from_secs(10), registry.drained()).await;
    /// assert!(drained.is_ok());
    /// # drop(stack);
    /// # }
    /// ```
    pub async fn drained(&self) {
        loop {
            let mut has_waited = false;
            // Weak, so that a layer that is dropped meanwhile does not live until the end.
            let meters: Vec<_> = lock(&self.inner.meters).values().cloned().collect();
            for meter in meters.into_iter().filter_map(|meter| meter.upgrade()) {
                let states: Vec<_> = meter.states().iter().map(Arc::downgrade).collect();
                for state in states.into_iter().filter_map(|state| state.upgrade()) {
                    if let Some(drained) = state.drained() {
                        has_waited |= wait_for(drained).await;
                    }
                }
                if let Some(calls) = meter.calls() {
                    has_waited |= wait_for(calls.drained()).await;
                }
            }
            // A call that was waited for, such as a run, may have called a layer before it.
            if !has_waited {
                return;
            }
        }
    }

    /// Changes all layers with this name by hand, and reports it as an event with the actor.
    ///
    /// `stack` is the name of their stack, or `None` for layers outside of a stack. Returns the
    /// number of layers that were changed. It is zero if there is no such layer, if the change is
    /// not for its kind, or if the value is invalid. A circuit breaker by key is [not
    /// changed](crate::circuit_breaker#telemetry). Of a [stack by key](crate::Stack::by_key), the
    /// keys of the moment are changed, and a later key does not have the change.
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

/// Waits for a future. Returns `true` if it was not ready at once.
async fn wait_for(future: impl Future<Output = ()>) -> bool {
    let (mut future, mut was_pending) = (pin!(future), false);
    poll_fn(|cx| {
        let polled = future.as_mut().poll(cx);
        was_pending |= polled.is_pending();
        polled
    })
    .await;
    was_pending
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::sync::Notify;
    use tokio_test::task::{self, Spawn};

    use super::{
        super::{
            super::{event::CallOutcome, kind::Kind},
            state::{Drained, LayerState},
        },
        *,
    };

    const TOOK: u64 = 1_000_000;

    fn calls(registry: &Registry, stack: &str) -> Arc<Meter> {
        let name: Name = stack.into();
        registry.meter(Identity { stack: Some(name.clone()), layer: name, kind: Kind::Call })
    }

    fn begin(meter: &Meter) {
        meter.calls().unwrap().begin();
    }

    fn end(meter: &Meter) {
        meter.ended(CallOutcome::Success, None, TOOK);
    }

    fn drained(registry: &Registry) -> Spawn<impl Future<Output = ()> + use<>> {
        let registry = registry.clone();
        task::spawn(async move { registry.drained().await })
    }

    /// A layer with one run, which ends with `end`.
    #[derive(Default)]
    struct Runs {
        is_over: Mutex<bool>,
        ended: Notify,
    }

    impl Runs {
        fn end(&self) {
            *lock(&self.is_over) = true;
            self.ended.notify_waiters();
        }
    }

    impl LayerState for Runs {
        fn drained(self: Arc<Self>) -> Option<Drained> {
            Some(Box::pin(async move {
                let ended = self.ended.notified();
                if !*lock(&self.is_over) {
                    ended.await;
                }
            }))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_stacks_of_a_registry_are_waited_for() {
        let registry = Registry::new();
        assert!(drained(&registry).poll().is_ready());
        let (first, second) = (calls(&registry, "first"), calls(&registry, "second"));
        begin(&first);
        begin(&second);
        let mut drained = drained(&registry);
        assert!(drained.poll().is_pending());
        end(&second);
        assert!(drained.poll().is_pending());
        end(&first);
        assert!(drained.is_woken() && drained.poll().is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_a_run_makes_in_an_earlier_layer_is_waited_for() {
        let registry = Registry::new();
        let client = calls(&registry, "client");
        let guard = calls(&registry, "guard");
        let runs: Arc<Runs> = Arc::default();
        let state: Weak<Runs> = Arc::downgrade(&runs);
        guard.add_states([state as Weak<dyn LayerState>]);
        let mut drained = drained(&registry);
        // The client has no call, and so the run is waited for.
        assert!(drained.poll().is_pending());
        begin(&client);
        runs.end();
        assert!(drained.is_woken() && drained.poll().is_pending());
        end(&client);
        assert!(drained.is_woken() && drained.poll().is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn a_layer_that_is_gone_is_not_waited_for() {
        let registry = Registry::new();
        let gone = calls(&registry, "gone");
        begin(&gone);
        drop(gone);
        let guard = calls(&registry, "guard");
        let runs: Arc<Runs> = Arc::default();
        let state: Weak<Runs> = Arc::downgrade(&runs);
        guard.add_states([state as Weak<dyn LayerState>]);
        drop(runs);
        assert!(drained(&registry).poll().is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn a_layer_that_comes_during_the_wait_is_waited_for() {
        let registry = Registry::new();
        let first = calls(&registry, "first");
        begin(&first);
        let mut drained = drained(&registry);
        assert!(drained.poll().is_pending());
        let late = calls(&registry, "late");
        begin(&late);
        end(&first);
        assert!(drained.is_woken() && drained.poll().is_pending());
        end(&late);
        assert!(drained.is_woken() && drained.poll().is_ready());
    }

    #[test]
    fn an_empty_name_counts_as_no_name() {
        let registry = Registry::new();
        for kind in [Kind::Call, Kind::Bulkhead] {
            let unnamed = Identity { stack: None, layer: kind.as_str().into(), kind };
            let empty = Identity { stack: Some("".into()), layer: "".into(), kind };
            let meter = registry.meter(unnamed);
            assert!(Arc::ptr_eq(&meter, &registry.meter(empty)), "{kind:?}");
            assert!(registry.gather().iter().all(|family| {
                family
                    .series
                    .iter()
                    .all(|series| series.attributes.iter().all(|(_, value)| !value.is_empty()))
            }));
        }
    }
}
