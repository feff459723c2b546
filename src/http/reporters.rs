//! The reporters of a client or server layer and of the bodies that belong to it.

use std::{sync::Arc, time::Duration};

use super::AutoClassifier;
use crate::{
    error::Name,
    telemetry::{Kind, Meter, Registry, Reporter, ReporterCell, Reporters},
};

/// The reporters of a layer, which comes first, and of the limits of its bodies.
#[derive(Debug)]
pub(super) struct HttpReporters(Box<[ReporterCell]>);

impl HttpReporters {
    pub(super) fn of_client() -> Self {
        Self::new(None, &[Kind::Client, Kind::Body, Kind::IdleBody])
    }

    pub(super) fn of_server(name: Option<&Name>) -> Self {
        Self::new(name, &[Kind::Server, Kind::Body, Kind::IdleBody, Kind::UnreadBody])
    }

    fn new(name: Option<&Name>, kinds: &[Kind]) -> Self {
        Self(kinds.iter().map(|kind| ReporterCell::new(name.cloned(), *kind)).collect())
    }

    /// Returns the reporters of a layer with the same settings.
    pub(super) fn fresh(&self) -> Self {
        Self(self.0.iter().map(ReporterCell::fresh).collect())
    }

    /// Takes the names and the registry of a stack.
    pub(super) fn inherit(&self, stack: &Reporters) {
        self.0.iter().for_each(|reporter| reporter.inherit(stack, || None));
    }

    /// Counts in a registry from now on.
    pub(super) fn register(&self, registry: &Registry) {
        self.0.iter().for_each(|reporter| reporter.register(registry, None));
    }

    /// Returns the reporter of the layer.
    pub(super) fn layer(&self) -> &Reporter {
        self.0[0].get()
    }

    /// Returns the reporter of a limit of a body.
    pub(super) fn of(&self, kind: Kind) -> &Reporter {
        self.0.iter().find(|reporter| reporter.kind() == kind).unwrap_or(&self.0[0]).get()
    }

    /// Returns the numbers of the layer, if it is registered.
    #[inline]
    pub(super) fn meter(&self) -> Option<&Arc<Meter>> {
        self.0[0].meter()
    }
}

/// The settings of the layer that a response body belongs to.
pub(super) trait BodyOwner: Send + Sync {
    fn reporters(&self) -> &HttpReporters;

    /// Returns the longest time that a read waits for a frame.
    fn idle(&self) -> Option<Duration>;

    /// Returns the classifier of gRPC trailers, if it was set.
    fn classifier(&self) -> Option<&AutoClassifier> {
        None
    }

    /// Returns the numbers of its bodies, if they are measured.
    fn bodies(&self) -> Option<&Arc<Meter>> {
        None
    }
}

/// The owner of the bodies of tests, with its idle limit.
#[cfg(test)]
pub(super) struct TestOwner(HttpReporters, Option<Duration>);

#[cfg(test)]
impl TestOwner {
    pub(super) fn new(idle: Option<Duration>) -> Arc<Self> {
        Arc::new(Self(HttpReporters::of_server(None), idle))
    }
}

#[cfg(test)]
impl BodyOwner for TestOwner {
    fn reporters(&self) -> &HttpReporters {
        &self.0
    }

    fn idle(&self) -> Option<Duration> {
        self.1
    }
}
