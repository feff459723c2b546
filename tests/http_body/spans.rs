//! The spans of calls and attempts, as a subscriber sees them.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use buttress::telemetry::field;
use tracing::{
    Subscriber,
    field::{Field, Visit},
    span,
    subscriber::{DefaultGuard, set_default},
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
    registry::Registry,
};

#[derive(Clone, Debug, Default)]
struct Seen {
    name: &'static str,
    outcome: Option<String>,
    error: Option<String>,
    closed: bool,
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            field::OUTCOME => self.outcome = Some(value.to_owned()),
            field::ERROR_TYPE => self.error = Some(value.to_owned()),
            _ => {}
        }
    }
}

/// A capture of the spans of this thread, until it is dropped.
pub(super) struct Spans {
    seen: Capture,
    _guard: DefaultGuard,
}

#[derive(Clone, Default)]
struct Capture(Arc<Mutex<Vec<(span::Id, Seen)>>>);

/// The name and the outcome of a span and, for a failure, its error type.
pub(super) type Told = (&'static str, Option<String>, Option<String>);

/// Creates an expected span.
pub(super) fn told(name: &'static str, outcome: &str, error: Option<&str>) -> Told {
    (name, Some(outcome.to_owned()), error.map(str::to_owned))
}

impl Spans {
    pub(super) fn start() -> Self {
        let seen = Capture::default();
        let guard = set_default(Registry::default().with(seen.clone()));
        Self { seen, _guard: guard }
    }

    /// Returns the closed spans, sorted by name, and by order within one name.
    pub(super) fn closed(&self) -> Vec<Told> {
        let seen = self.seen.0.lock().unwrap();
        let closed = seen.iter().map(|(_, span)| span.clone()).filter(|span| span.closed);
        let mut told: Vec<_> = closed.map(|span| (span.name, span.outcome, span.error)).collect();
        told.sort_by_key(|(name, ..)| *name);
        told
    }

    /// Returns the number of open spans, and whether none of them has an outcome yet.
    pub(super) fn open(&self) -> (usize, bool) {
        let seen = self.seen.0.lock().unwrap();
        let open: Vec<_> = seen.iter().filter(|(_, span)| !span.closed).collect();
        (open.len(), open.iter().all(|(_, span)| span.outcome.is_none()))
    }
}

impl Capture {
    fn with(&self, id: &span::Id, change: impl FnOnce(&mut Seen)) {
        let mut seen = self.0.lock().unwrap();
        // An id is reused after its span is closed.
        if let Some((_, span)) = seen.iter_mut().rev().find(|(seen, _)| seen == id) {
            change(span);
        }
    }
}

impl<S: Subscriber> Layer<S> for Capture {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, _: Context<'_, S>) {
        let name = attributes.metadata().name();
        if attributes.metadata().target().starts_with("buttress") {
            self.0.lock().unwrap().push((id.clone(), Seen { name, ..Seen::default() }));
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, _: Context<'_, S>) {
        self.with(id, |span| values.record(span));
    }

    fn on_close(&self, id: span::Id, _: Context<'_, S>) {
        self.with(&id, |span| span.closed = true);
    }
}
