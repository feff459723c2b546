use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use tracing::{Level, enabled};

use super::{
    event::{Event, Source},
    gate::Gates,
    kind::Kind,
    log::{RETRY, log, reaches_the_crate_log},
};
use crate::{CarryRejection, Rejection, error::Name};

/// The part of a layer that reports what the layer does, under the layer's name.
pub(crate) struct Reporter {
    name: Name,
    kind: Kind,
    gates: OnceLock<Box<Gates>>,
}

impl Reporter {
    /// Creates the reporter of a layer of this kind. Its default name is the kind.
    pub(crate) fn new(name: Option<&Name>, kind: Kind) -> Self {
        let name = match (name, kind.part()) {
            (Some(name), Some(part)) => Name::with_part(name.as_str(), part),
            (Some(name), None) => name.clone(),
            (None, _) => kind.as_str().into(),
        };
        Self { name, kind, gates: OnceLock::new() }
    }

    /// Returns a reporter with the same name for a layer of this kind.
    pub(crate) fn of_kind(&self, kind: Kind) -> Self {
        Self { name: self.name.clone(), kind, gates: OnceLock::new() }
    }

    /// Returns a reporter with the same name for a layer with a state of its own.
    pub(crate) fn fresh(&self) -> Self {
        self.of_kind(self.kind)
    }

    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    /// Reports an event.
    pub(crate) fn emit(&self, event: Event<'_>) {
        let gates = || &**self.gates.get_or_init(|| Box::new(Gates::new()));
        log(Source::new(self.name.as_str(), self.kind), &event, gates);
    }

    /// Reports an event of a retry at DEBUG.
    ///
    /// The closure creates the event if it can be in the log. It may run code of the user.
    pub(crate) fn emit_debug<'a>(&self, event: impl FnOnce() -> Event<'a>) {
        if enabled!(target: RETRY, Level::DEBUG) || reaches_the_crate_log() {
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

/// The gates of the layers that have neither a name nor a stack. They share one for each kind.
static UNNAMED: [Gates; Kind::COUNT] = [const { Gates::new() }; Kind::COUNT];

/// Reports an event of a layer that may have no reporter.
pub(crate) fn emit(reporter: Option<&Reporter>, kind: Kind, event: Event<'_>) {
    match reporter {
        Some(reporter) => reporter.emit(event),
        None => {
            let layer = match event {
                Event::Rejected { rejection } => rejection.name(),
                _ => kind.as_str(),
            };
            log(Source::new(layer, kind), &event, || &UNNAMED[kind as usize]);
        }
    }
}

/// Reports a rejection by a layer that may have no reporter, and creates the error of the call.
pub(crate) fn reject<E: CarryRejection>(
    reporter: Option<&Reporter>,
    kind: Kind,
    reason: impl Into<Rejection>,
) -> E {
    let rejection = reason.into();
    emit(reporter, kind, Event::Rejected { rejection: &rejection });
    E::from_rejection(rejection)
}

/// The name of a stack, and the reporters of its timeouts.
///
/// The other layers have a state, which has the [cell](ReporterCell) of the reporter.
#[derive(Clone)]
pub(crate) struct Reporters {
    /// The name that was set for the stack.
    stack: Option<Name>,
    timeouts: [Arc<Reporter>; 2],
}

impl Reporters {
    /// Returns the reporters of a stack with this name.
    pub(crate) fn new(stack: Option<Name>) -> Self {
        let timeouts = [Kind::TotalTimeout, Kind::AttemptTimeout];
        let timeouts = timeouts.map(|kind| Arc::new(Reporter::new(stack.as_ref(), kind)));
        Self { stack, timeouts }
    }

    /// Returns new reporters with the same names.
    pub(crate) fn fresh(&self) -> Self {
        let timeouts = self.timeouts.each_ref().map(|timeout| Arc::new(timeout.fresh()));
        Self { stack: self.stack.clone(), timeouts }
    }

    /// Returns the name of the stack, if one was set.
    pub(crate) fn stack(&self) -> Option<&Name> {
        self.stack.as_ref()
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
/// It has the name that was set for the layer, or otherwise that of the first named stack with the
/// layer. Before that, the name is the kind.
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

    /// Returns the name that was set for the layer or its stack, if there is one.
    pub(crate) fn name(&self) -> Option<&Name> {
        self.of_stack.get().map(|reporter| reporter.name()).or(self.name.as_ref())
    }

    /// Returns the name, or the kind if no name was set. It allocates nothing.
    pub(crate) fn as_str(&self) -> &str {
        self.name().map_or(self.kind.as_str(), Name::as_str)
    }

    /// Takes the name of a stack, unless the layer has one.
    pub(crate) fn inherit(&self, reporters: &Reporters) {
        if let (None, Some(stack)) = (&self.name, reporters.stack()) {
            self.of_stack.get_or_init(|| Arc::new(Reporter::new(Some(stack), self.kind)));
        }
    }

    pub(crate) fn get(&self) -> &Reporter {
        self.of_stack.get().unwrap_or_else(|| {
            self.own.get_or_init(|| Arc::new(Reporter::new(self.name.as_ref(), self.kind)))
        })
    }
}
