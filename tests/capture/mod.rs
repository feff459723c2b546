//! A subscriber that captures spans and events.
#![allow(dead_code, reason = "no suite needs all of it")]

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, LazyLock, Mutex},
};

use buttress::telemetry::field;
use tracing::{
    Dispatch, Event, Level, Subscriber,
    field::{Field, Visit},
    span,
    subscriber::{DefaultGuard, set_default},
};
use tracing_subscriber::{
    Layer as SubscriberLayer,
    layer::{Context, SubscriberExt},
    registry::{LookupSpan, Registry},
};

/// A span or an event: its name, its level, its parent span and its fields.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) name: String,
    pub(crate) level: Level,
    pub(crate) target: String,
    pub(crate) within: Option<String>,
    pub(crate) fields: Fields,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Fields(pub(crate) BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl Seen {
    pub(crate) fn get(&self, field: &str) -> Option<&str> {
        self.fields.0.get(field).map(String::as_str)
    }

    /// Returns its name, after that of the span that it is in.
    fn place(&self) -> String {
        self.within.iter().fold(String::new(), |_, within| format!("{within} > ")) + &self.name
    }
}

/// Sets the subscriber of this thread, until the guard is dropped.
pub(crate) fn subscribe<L>(layer: L) -> DefaultGuard
where
    L: SubscriberLayer<Registry> + Send + Sync,
{
    /// A second subscriber in the program. While there is only one, another thread that meets an
    /// event first, and has no subscriber, turns the event off for all threads.
    static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(Registry::default()));
    LazyLock::force(&SECOND);
    set_default(Registry::default().with(layer))
}

#[derive(Clone, Default)]
pub(crate) struct Capture {
    spans: Arc<Mutex<Vec<(span::Id, Seen)>>>,
    events: Arc<Mutex<Vec<Seen>>>,
}

impl Capture {
    /// Captures what this thread emits, until the guard is dropped.
    pub(crate) fn start() -> (Self, DefaultGuard) {
        let capture = Self::default();
        let guard = subscribe(capture.clone());
        (capture, guard)
    }

    pub(crate) fn spans(&self) -> Vec<Seen> {
        self.spans.lock().unwrap().iter().map(|(_, span)| span.clone()).collect()
    }

    /// Returns the text, level, parent span and fields of each event.
    pub(crate) fn events(&self) -> Vec<Seen> {
        self.events.lock().unwrap().clone()
    }

    pub(crate) fn texts(&self) -> Vec<(Level, String)> {
        self.events().into_iter().map(|event| (event.level, event.name)).collect()
    }
}

impl Capture {
    /// Returns the spans in the order of their creation, and then the events from `INFO` on.
    ///
    /// Each is a line, with the span that it is in.
    pub(crate) fn snapshot(&self) -> Vec<String> {
        const FIELDS: [&str; 6] = [
            field::STACK,
            field::ATTEMPT,
            field::OUTCOME,
            field::ERROR_TYPE,
            field::STATUS,
            field::ATTEMPTS,
        ];
        let spans = self.spans().into_iter().map(|span| {
            let fields =
                FIELDS.iter().filter_map(|name| Some(format!(" {name}={}", span.get(name)?)));
            span.place() + &fields.collect::<String>()
        });
        let events = self.events().into_iter().filter(|event| event.level <= Level::INFO);
        spans.chain(events.map(|event| format!("{}: {}", event.level, event.place()))).collect()
    }
}

impl<S> SubscriberLayer<S> for Capture
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, ctx: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let metadata = attributes.metadata();
        let parent = ctx.span(id).and_then(|span| span.parent()).map(|span| span.name().to_owned());
        let seen = Seen {
            name: metadata.name().to_owned(),
            level: *metadata.level(),
            target: metadata.target().to_owned(),
            within: parent,
            fields,
        };
        self.spans.lock().unwrap().push((id.clone(), seen));
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, _: Context<'_, S>) {
        let mut spans = self.spans.lock().unwrap();
        let (_, span) = spans.iter_mut().rev().find(|(seen, _)| seen == id).expect("a known span");
        values.record(&mut span.fields);
    }

    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let name = fields.0.remove("message").unwrap_or_default();
        let within = ctx.event_span(event).map(|span| span.name().to_owned());
        let level = *event.metadata().level();
        let target = event.metadata().target().to_owned();
        self.events.lock().unwrap().push(Seen { name, level, target, within, fields });
    }
}
