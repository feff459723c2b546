//! The document that the page reads.

use serde::Serialize;

use crate::{
    diagnose::{Diagnosis, diagnose},
    events::{Events, Line},
    snapshot::Snapshot,
};

#[derive(Serialize)]
pub(crate) struct State {
    version: &'static str,
    /// `true` if the reader may change layers.
    changes: bool,
    dependencies: Vec<Dependency>,
    events: Vec<Line>,
}

#[derive(Serialize)]
struct Dependency {
    #[serde(flatten)]
    diagnosis: Diagnosis,
    #[serde(flatten)]
    snapshot: Snapshot,
}

impl State {
    pub(crate) fn new(snapshots: Vec<Snapshot>, events: &Events, changes: bool) -> Self {
        let dependencies = snapshots
            .into_iter()
            .map(|snapshot| Dependency { diagnosis: diagnose(&snapshot), snapshot })
            .collect();
        let version = env!("CARGO_PKG_VERSION");
        Self { version, changes, dependencies, events: events.lines() }
    }
}
