//! The outcomes of calls, read from their spans.

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
    registry::{LookupSpan, Registry},
};

/// The outcomes and error types of the calls, in the order in which they were recorded.
#[derive(Clone, Default)]
pub(crate) struct Outcomes {
    recorded: Arc<Mutex<Vec<String>>>,
}

impl Outcomes {
    /// Watches the calls of this thread until the returned guard is dropped.
    pub(crate) fn watch() -> (Self, DefaultGuard) {
        let outcomes = Self::default();
        let guard = set_default(Registry::default().with(outcomes.clone()));
        (outcomes, guard)
    }

    /// Returns the values recorded since the last call.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.recorded.lock().unwrap())
    }
}

impl<S> Layer<S> for Outcomes
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, ctx: Context<'_, S>) {
        if ctx.span(id).is_some_and(|span| span.name() == "call") {
            values.record(&mut Recorder(&self.recorded));
        }
    }
}

struct Recorder<'a>(&'a Mutex<Vec<String>>);

impl Visit for Recorder<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if [field::OUTCOME, field::ERROR_TYPE].contains(&field.name()) {
            self.0.lock().unwrap().push(value.to_owned());
        }
    }
}
