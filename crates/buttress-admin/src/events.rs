//! The last rare events of all layers.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use buttress::{
    Rejection,
    telemetry::{Control, Event, Observer, Registry, Source},
};
use serde::Serialize;
use tokio::time::Instant;

use crate::{snapshot::Snapshot, words};

/// The number of entries that are kept.
const ENTRIES: usize = 100;
/// The number of layers of which something is remembered. Layers can come and go.
const LAYERS: usize = 256;
/// The bytes of a name that are kept.
const NAME_BYTES: usize = 128;
/// The longest pause between events of one entry.
const EPISODE: Duration = Duration::from_secs(60);

/// The last events, and the facts that only events say.
#[derive(Default)]
pub(crate) struct Events {
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    entries: VecDeque<Entry>,
    layers: Vec<Layer>,
}

/// One event, or several equal ones with short pauses.
struct Entry {
    stack: Option<String>,
    layer: String,
    kind: &'static str,
    what: &'static str,
    reason: &'static str,
    detail: String,
    first: Instant,
    last: Instant,
    times: u64,
}

/// The facts about a layer that only events say.
struct Layer {
    stack: Option<String>,
    layer: String,
    kind: &'static str,
    /// The limit of the last call that timed out.
    limit: Option<Duration>,
    /// The reason for which the circuit opened last.
    reason: Option<&'static str>,
    /// The actor of the last change.
    actor: Option<String>,
}

/// An entry as the page gets it.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    /// The seconds since the last of the events.
    ago: f64,
    /// The seconds from the first to the last.
    lasted: f64,
    times: u64,
    stack: Option<String>,
    layer: String,
    kind: &'static str,
    what: &'static str,
    detail: String,
}

/// The part of an event that is kept.
///
/// It has names and reasons only. Keys and the errors of stores may be secrets.
struct Kept {
    what: &'static str,
    reason: &'static str,
    detail: String,
    /// `true` for an event that can happen with each call.
    is_frequent: bool,
}

impl Kept {
    fn of(event: &Event<'_>) -> Option<Self> {
        let frequent =
            |what, reason| Kept { what, reason, detail: String::new(), is_frequent: true };
        let rare = |what, reason, detail| Kept { what, reason, detail, is_frequent: false };
        Some(match *event {
            Event::Rejected { rejection: Rejection::TimedOut(_), .. } => {
                frequent("call timed out", "")
            }
            Event::Rejected { rejection, .. } => frequent("call rejected", rejection.kind()),
            Event::Retrying { error_type, .. } => frequent("retrying call", error_type),
            Event::FallbackUsed { reason, .. } => frequent("fallback used", reason.as_str()),
            Event::FallbackFailed { cause, .. } => frequent("fallback failed", cause),
            Event::RetriesExhausted { reason, .. } => frequent("retries exhausted", reason),
            Event::StaleGiven { reason, .. } => frequent("stale response given", reason),
            Event::ResponseNotKept { reason, .. } => frequent("response not kept", reason),
            Event::StoreFailed { .. } => frequent("idempotency store failed", ""),
            Event::StoreAlmostFull { of, .. } => frequent("idempotency store almost full", of),
            Event::BulkheadResized { limit, .. } => {
                rare("bulkhead resized", "", format!("to {limit}"))
            }
            Event::CircuitOpened { reason, .. } => rare("circuit opened", reason, String::new()),
            Event::CircuitHalfOpen { .. } => rare("circuit half-open", "", String::new()),
            Event::CircuitClosed { .. } => rare("circuit closed", "", String::new()),
            Event::CircuitDisabled { .. } => rare("circuit disabled", "", String::new()),
            Event::ChaosArmed { limit, .. } => {
                let limit = words::time(limit.as_secs_f64());
                rare("chaos armed", "", format!("for at most {limit}"))
            }
            Event::ChaosDisarmed { injected, .. } => {
                rare("chaos disarmed", "", format!("after {}", words::Count(injected, "fault")))
            }
            Event::FaultInjected { fault, .. } => frequent("fault injected", fault),
            // An address may be a secret, and is in the states of the handle.
            Event::EndpointOut { reason, .. } => rare("endpoint out", reason, String::new()),
            Event::EndpointBack { reason, .. } => rare("endpoint back", reason, String::new()),
            Event::NoEndpointUsable { .. } => rare("no endpoint usable", "", String::new()),
            Event::Controlled { control, actor, .. } => {
                let actor = start_of(actor);
                let detail = match control {
                    Control::ForceOpen(Some(time)) => {
                        format!("for {} by {actor}", words::time(time.as_secs_f64()))
                    }
                    Control::Resize(limit) => format!("to {limit} by {actor}"),
                    _ => format!("by {actor}"),
                };
                rare("layer controlled", control.as_str(), detail)
            }
            Event::OperationUnknown { .. } => {
                rare("idempotent operation has unknown outcome", "", String::new())
            }
            Event::LeaseLost { .. } => rare("lease lost", "", String::new()),
            // The others are no news: a call that waits, or one that is not meant to be retried.
            _ => return None,
        })
    }
}

impl Events {
    /// Observes the events of a registry until the returned value is dropped.
    pub(crate) fn of(registry: &Registry) -> Arc<Self> {
        let events = Arc::new(Self::default());
        registry.observe(Listener(Arc::downgrade(&events)));
        events
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, source: Source<'_>, event: &Event<'_>) {
        let Some(kept) = Kept::of(event) else { return };
        let now = Instant::now();
        let mut log = self.lock();
        log.remember(source, event);
        log.add(source, kept, now);
    }

    /// Returns the entries, the last one first.
    pub(crate) fn lines(&self) -> Vec<Line> {
        let now = Instant::now();
        let log = self.lock();
        let mut entries: Vec<_> = log.entries.iter().collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.last));
        entries.into_iter().map(|entry| entry.line(now)).collect()
    }

    /// Adds the facts that only events say.
    pub(crate) fn complete(&self, snapshot: &mut Snapshot) {
        for layer in &self.lock().layers {
            let is_of_snapshot = match (&snapshot.stack, &layer.stack) {
                (Some(of), Some(stack)) => *stack == start_of(of),
                (None, None) => layer.layer == start_of(&snapshot.name),
                _ => false,
            };
            if !is_of_snapshot {
                continue;
            }
            let limit = layer.limit.map(|limit| limit.as_secs_f64());
            match layer.kind {
                "attempt_timeout" | "timeout" => snapshot.attempt_limit = limit,
                "total_timeout" => snapshot.total_limit = limit,
                _ => {}
            }
            if let Some(breaker) = &mut snapshot.breaker {
                if layer.kind == "circuit_breaker" && layer.layer == start_of(&breaker.layer) {
                    breaker.reason = layer.reason.map(str::to_owned);
                    breaker.actor.clone_from(&layer.actor);
                }
            }
            if let Some(fallback) = &mut snapshot.fallback {
                if layer.kind == "fallback" && layer.layer == start_of(&fallback.layer) {
                    fallback.actor.clone_from(&layer.actor);
                }
            }
        }
    }
}

impl Log {
    fn add(&mut self, source: Source<'_>, kept: Kept, now: Instant) {
        let Kept { what, reason, detail, is_frequent } = kept;
        let (stack, layer) = (source.stack().map(start_of), start_of(source.layer()));
        let same = |entry: &&mut Entry| {
            entry.what == what
                && entry.reason == reason
                && entry.kind == source.kind()
                && entry.layer == layer
                && entry.stack.as_deref() == stack
                && now.saturating_duration_since(entry.last) <= EPISODE
        };
        if is_frequent {
            if let Some(entry) = self.entries.iter_mut().rev().find(same) {
                entry.times += 1;
                entry.last = now;
                return;
            }
        }
        if self.entries.len() == ENTRIES {
            self.entries.pop_front();
        }
        self.entries.push_back(Entry {
            stack: stack.map(str::to_owned),
            layer: layer.to_owned(),
            kind: source.kind(),
            what,
            reason,
            detail,
            first: now,
            last: now,
            times: 1,
        });
    }

    fn remember(&mut self, source: Source<'_>, event: &Event<'_>) {
        match *event {
            Event::Rejected { rejection: Rejection::TimedOut(late), .. } => {
                self.layer(source).limit = Some(late.limit());
            }
            Event::CircuitOpened { reason, .. } => {
                let layer = self.layer(source);
                (layer.reason, layer.actor) = (Some(reason), None);
            }
            Event::CircuitClosed { .. } | Event::CircuitDisabled { .. } => {
                self.layer(source).actor = None;
            }
            // The change of the state comes first.
            Event::Controlled { actor, .. } => {
                self.layer(source).actor = Some(start_of(actor).to_owned());
            }
            _ => {}
        }
    }

    /// Returns the facts about a layer. Too many layers let the first one be forgotten.
    fn layer(&mut self, source: Source<'_>) -> &mut Layer {
        let (stack, layer) = (source.stack().map(start_of), start_of(source.layer()));
        let same = |it: &Layer| {
            it.kind == source.kind() && it.layer == layer && it.stack.as_deref() == stack
        };
        let place = self.layers.iter().position(same).unwrap_or_else(|| {
            if self.layers.len() == LAYERS {
                self.layers.remove(0);
            }
            let (stack, layer) = (stack.map(str::to_owned), layer.to_owned());
            let (limit, reason, actor) = (None, None, None);
            let kind = source.kind();
            self.layers.push(Layer { stack, layer, kind, limit, reason, actor });
            self.layers.len() - 1
        });
        &mut self.layers[place]
    }
}

impl Entry {
    fn line(&self, now: Instant) -> Line {
        let seconds = |from, to: Instant| to.saturating_duration_since(from).as_secs_f64();
        let parts = [self.reason, &self.detail];
        let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        Line {
            ago: seconds(self.last, now),
            lasted: seconds(self.first, self.last),
            times: self.times,
            stack: self.stack.clone(),
            layer: self.layer.clone(),
            kind: self.kind,
            what: self.what,
            detail: parts.join(" "),
        }
    }
}

/// Returns the part of a name that is kept.
fn start_of(name: &str) -> &str {
    if name.len() <= NAME_BYTES {
        return name;
    }
    let end = (0..=NAME_BYTES).rev().find(|end| name.is_char_boundary(*end));
    &name[..end.unwrap_or_default()]
}

struct Listener(Weak<Events>);

impl Observer for Listener {
    fn on_event(&self, source: Source<'_>, event: &Event<'_>) {
        if let Some(events) = self.0.upgrade() {
            events.add(source, event);
        }
    }
}
