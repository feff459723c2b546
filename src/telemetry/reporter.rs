use std::{
    fmt,
    sync::{Arc, Mutex, OnceLock, Weak},
};

use tracing::{Level, enabled};

use super::{
    event::{Event, Source},
    gate::Gates,
    kind::Kind,
    log::{RETRY, log, reaches_the_crate_log},
    metrics::{Identity, LayerState, Meter, Registry, instrument::RETRY_ENDED},
};
use crate::{CarryRejection, Rejection, call::lock::lock, error::Name};

/// The part of a layer that reports what the layer does, under the layer's name.
pub(crate) struct Reporter {
    /// The name of the stack around the layer, once it is in one.
    stack: OnceLock<Name>,
    name: Name,
    /// `false` for a timeout without a name, outside of a stack.
    is_named: bool,
    /// `true` for a layer in a stack whose reporters are [inherited](ReporterCell::inherit).
    is_of_stack: bool,
    kind: Kind,
    gates: OnceLock<Box<Gates>>,
    /// Set once the layer is registered.
    meter: OnceLock<Arc<Meter>>,
}

impl Reporter {
    /// Creates the reporter of a layer of this kind. Its default name is the kind.
    pub(crate) fn new(name: Option<&Name>, kind: Kind) -> Self {
        let is_named = name.is_some() || kind != Kind::Timeout;
        let name = match (name, kind.part()) {
            (Some(name), Some(part)) => Name::with_part(name.as_str(), part),
            (Some(name), None) => name.clone(),
            (None, _) => kind.as_str().into(),
        };
        let (stack, gates, meter) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Self { stack, name, is_named, is_of_stack: false, kind, gates, meter }
    }

    /// Returns a reporter with the same name for a layer of this kind.
    pub(crate) fn of_kind(&self, kind: Kind) -> Self {
        let (stack, gates, meter) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        let (name, is_named) = (self.name.clone(), self.is_named);
        Self { stack, name, is_named, is_of_stack: false, kind, gates, meter }
    }

    /// Returns a reporter with the same name for a layer with a state of its own.
    pub(crate) fn fresh(&self) -> Self {
        self.of_kind(self.kind)
    }

    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    /// Returns the name for a rejection by a timeout, if the timeout has one.
    pub(crate) fn given_name(&self) -> Option<Name> {
        self.is_named.then(|| self.name.clone())
    }

    /// Takes the name and the registry of the stack around the layer, unless it has them already.
    pub(crate) fn join(&self, stack: &Reporters) {
        if let Some(name) = &stack.stack {
            self.stack.get_or_init(|| name.clone());
        }
        if let Some(registry) = &stack.registry {
            self.register(registry);
        }
        if let (Some(meters), Some(meter)) = (&stack.meters, self.meter()) {
            let mut meters = lock(meters);
            if !meters.iter().any(|known| Arc::ptr_eq(known, meter)) {
                meters.push(Arc::clone(meter));
            }
        }
    }

    /// Counts in a registry from now on, unless the layer does so already.
    pub(crate) fn register(&self, registry: &Registry) {
        let (stack, layer, kind) = (self.stack.get().cloned(), self.name.clone(), self.kind);
        self.meter.get_or_init(|| registry.meter(Identity { stack, layer, kind }));
    }

    /// Returns the numbers of the layer, if it is registered.
    #[inline]
    pub(crate) fn meter(&self) -> Option<&Arc<Meter>> {
        self.meter.get()
    }

    /// Returns `true` if the layer is in a stack.
    #[inline]
    pub(crate) fn is_of_stack(&self) -> bool {
        self.is_of_stack
    }

    /// Reports an event.
    pub(crate) fn emit(&self, event: Event<'_>) {
        let meter = self.meter();
        if let Some(meter) = meter {
            meter.count(&event);
        }
        let stack = self.stack.get().map(Name::as_str);
        let gates = || &**self.gates.get_or_init(|| Box::new(Gates::new()));
        log(Source::new(stack, self.name.as_str(), self.kind), &event, gates);
        if let Some(meter) = meter {
            meter.tell(&event);
        }
    }

    /// Reports a call that is not retried, and counts it for the reason `counted`.
    ///
    /// The closure creates the event if it can be in the log, or if there is an observer. It may
    /// run code of the user, whose reason can be any text.
    pub(crate) fn emit_not_retried<'a>(
        &self,
        counted: &'static str,
        event: impl FnOnce() -> Event<'a>,
    ) {
        let meter = self.meter();
        if let Some(meter) = meter {
            meter.add(&RETRY_ENDED, [counted, ""]);
        }
        let is_observed = meter.is_some_and(|meter| meter.is_observed());
        if is_observed || enabled!(target: RETRY, Level::DEBUG) || reaches_the_crate_log() {
            self.emit(event());
        }
    }

    /// Reports a rejection and creates the error of the call from it.
    pub(crate) fn reject<E: CarryRejection>(&self, reason: impl Into<Rejection>) -> E {
        let rejection = reason.into();
        self.emit(Event::Rejected { rejection: &rejection });
        E::from_rejection(rejection)
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

/// The gates of the timeouts that have neither a name nor a stack.
static UNNAMED: Gates = Gates::new();

/// Reports a rejection by a timeout that may have no reporter, and creates the error of the call.
pub(crate) fn reject<E: CarryRejection>(
    reporter: Option<&Reporter>,
    reason: impl Into<Rejection>,
) -> E {
    let Some(reporter) = reporter else {
        let rejection = reason.into();
        let source = Source::new(None, rejection.name(), Kind::Timeout);
        log(source, &Event::Rejected { rejection: &rejection }, || &UNNAMED);
        return E::from_rejection(rejection);
    };
    reporter.reject(reason)
}

/// The name of a stack, its registry, and the reporters of its timeouts.
///
/// The other layers have a state, which has the [cell](ReporterCell) of the reporter.
#[derive(Clone)]
pub(crate) struct Reporters {
    /// The name that was set for the stack.
    stack: Option<Name>,
    registry: Option<Registry>,
    /// The numbers of the calls of a stack that is registered.
    calls: Option<Arc<Meter>>,
    /// The numbers of its layers, so that those of a stack by key outlive each key.
    meters: Option<Arc<Mutex<Vec<Arc<Meter>>>>>,
    timeouts: [Arc<Reporter>; 2],
}

impl Reporters {
    /// Returns the reporters of a stack with this name and registry.
    pub(crate) fn new(stack: Option<Name>, registry: Option<Registry>) -> Self {
        let timeouts = [Kind::TotalTimeout, Kind::AttemptTimeout];
        let timeouts = timeouts.map(|kind| {
            let reporter = Reporter::new(stack.as_ref(), kind);
            if let Some(name) = &stack {
                reporter.stack.get_or_init(|| name.clone());
            }
            if let Some(registry) = &registry {
                reporter.register(registry);
            }
            Arc::new(reporter)
        });
        let calls = registry.as_ref().map(|registry| {
            let layer = stack.clone().unwrap_or_else(|| Kind::Call.as_str().into());
            registry.meter(Identity { stack: Some(layer.clone()), layer, kind: Kind::Call })
        });
        let meters = registry.as_ref().map(|_| Arc::default());
        Self { stack, registry, calls, meters, timeouts }
    }

    /// Returns new reporters with the same names and numbers.
    pub(crate) fn fresh(&self) -> Self {
        let fresh = Self::new(self.stack.clone(), self.registry.clone());
        Self { meters: self.meters.clone(), ..fresh }
    }

    /// Returns new reporters with another name. An empty name is none.
    pub(crate) fn named(self, name: Name) -> Self {
        Self::new(Some(name).filter(|name| !name.as_str().is_empty()), self.registry)
    }

    /// Returns new reporters of a stack that is registered.
    pub(crate) fn registered(self, registry: &Registry) -> Self {
        Self::new(self.stack, Some(registry.clone()))
    }

    /// Returns the name of the stack, if one was set.
    pub(crate) fn stack(&self) -> Option<&Name> {
        self.stack.as_ref()
    }

    /// Returns the numbers of the calls of the stack, if it is registered.
    pub(crate) fn calls(&self) -> Option<&Arc<Meter>> {
        self.calls.as_ref()
    }

    /// Returns the reporter of a timeout, or `None` for another kind of layer.
    pub(crate) fn of(&self, kind: Kind) -> Option<&Arc<Reporter>> {
        self.timeouts.iter().find(|timeout| timeout.kind == kind)
    }
}

impl fmt::Debug for Reporters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stack.fmt(f)
    }
}

/// The reporter of a layer that has a state.
///
/// It has the name that was set for the layer, or otherwise that of the first stack with the layer
/// that has a name or is registered. Before that, the name is the kind.
#[derive(Clone, Debug)]
pub(crate) struct ReporterCell {
    kind: Kind,
    name: Option<Name>,
    own: OnceLock<Arc<Reporter>>,
    /// It is separate, because a layer may report before it is in a stack.
    of_stack: OnceLock<Arc<Reporter>>,
}

impl ReporterCell {
    /// Creates the cell of a layer of this kind. `name` is the name that was set.
    pub(crate) const fn new(name: Option<Name>, kind: Kind) -> Self {
        Self { kind, name, own: OnceLock::new(), of_stack: OnceLock::new() }
    }

    /// Returns a cell for a layer with the same settings.
    pub(crate) fn fresh(&self) -> Self {
        Self::new(self.name.clone(), self.kind)
    }

    #[cfg(feature = "http")]
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the name that was set for the layer or its stack, if there is one.
    pub(crate) fn name(&self) -> Option<&Name> {
        match &self.name {
            Some(name) => Some(name),
            // The reporter of a stack without a name has the kind as its name.
            None => self.of_stack.get().filter(|it| it.stack.get().is_some()).map(|it| it.name()),
        }
    }

    /// Returns the name, or the kind if no name was set. It allocates nothing.
    pub(crate) fn as_str(&self) -> &str {
        self.name().map_or(self.kind.as_str(), Name::as_str)
    }

    /// Takes the names and the registry of a stack.
    ///
    /// `state` is the state of the layer, if it has one to read.
    pub(crate) fn inherit(
        &self,
        stack: &Reporters,
        state: impl FnOnce() -> Option<Weak<dyn LayerState>>,
    ) {
        if stack.stack().is_none() && stack.registry.is_none() {
            return;
        }
        let reporter = self.of_stack.get_or_init(|| {
            let name = self.name.as_ref().or(stack.stack());
            let reporter = Reporter { is_of_stack: true, ..Reporter::new(name, self.kind) };
            if let Some(meter) = self.own.get().and_then(|own| own.meter()) {
                // A layer that was registered by itself keeps its numbers.
                _ = reporter.meter.set(Arc::clone(meter));
            }
            if let Some(name) = stack.stack() {
                reporter.stack.get_or_init(|| name.clone());
            }
            Arc::new(reporter)
        });
        // An earlier stack with the layer may have had only a name.
        if reporter.meter().is_none() {
            reporter.join(stack);
            if let Some(meter) = reporter.meter() {
                meter.add_states(state());
            }
        }
    }

    /// Counts in a registry from now on, unless the layer does so already.
    pub(crate) fn register(&self, registry: &Registry, state: Option<Weak<dyn LayerState>>) {
        let reporter = self.get();
        if reporter.meter().is_none() {
            reporter.register(registry);
            if let Some(meter) = reporter.meter() {
                meter.add_states(state);
            }
        }
    }

    /// Returns the numbers of the layer, if it is registered. It allocates nothing.
    #[inline]
    pub(crate) fn meter(&self) -> Option<&Arc<Meter>> {
        self.counting()?.meter()
    }

    /// Returns the reporter, if the layer is registered. It allocates nothing.
    #[inline]
    pub(crate) fn counting(&self) -> Option<&Arc<Reporter>> {
        let reporter = self.of_stack.get().or_else(|| self.own.get());
        reporter.filter(|reporter| reporter.meter().is_some())
    }

    /// Returns `true` if the layer is registered and in a stack.
    #[inline]
    pub(crate) fn is_of_stack(&self) -> bool {
        self.of_stack.get().is_some_and(|reporter| reporter.meter().is_some())
    }

    pub(crate) fn get(&self) -> &Reporter {
        self.of_stack.get().unwrap_or_else(|| {
            self.own.get_or_init(|| Arc::new(Reporter::new(self.name.as_ref(), self.kind)))
        })
    }
}
