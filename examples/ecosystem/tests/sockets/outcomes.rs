//! How calls ended, as their spans tell.

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

/// The outcome of each call and what it is called, in the order in which they were found out.
#[derive(Clone, Default)]
pub(crate) struct Outcomes {
    recorded: Arc<Mutex<Vec<String>>>,
}

impl Outcomes {
    /// Watches the calls of this thread, until the guard is dropped.
    pub(crate) fn watch() -> (Self, DefaultGuard) {
        let outcomes = Self::default();
        let guard = set_default(Registry::default().with(outcomes.clone()));
        (outcomes, guard)
    }

    /// What was found out since this was asked the last time.
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
