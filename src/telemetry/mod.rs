//! Spans, events and metrics of the layers, and the names of their fields.
//!
//! Spans and events go to [`tracing`]:
//!
//! | span or event | level |
//! |---|---|
//! | span `call`, one per logical call of a [`Stack`](crate::Stack) | `INFO` |
//! | span `attempt`, one per attempt of a [retry](crate::retry) | `INFO` |
//! | "circuit opened", "no endpoint usable", "idempotent operation has unknown outcome" | `ERROR` |
//! | "call rejected", "call timed out", "retrying call", "retries exhausted", "fallback used", "fallback failed", "stale response given", "response not kept", "endpoint out", "circuit half-open", "idempotency store failed", "idempotency store almost full", "lease lost", "chaos armed", "chaos disarmed" | `WARN` |
//! | "circuit closed", "endpoint back", "layer controlled" | `INFO` |
//! | "call not retried", "call queued", "bulkhead resized", "circuit disabled", "fault injected" | `DEBUG` |
//!
//! Every field name is a constant of [`field`]. Field values are computed only if a subscriber is
//! interested in them.
//!
//! # Names
//!
//! [`Stack::name`](crate::Stack::name) names a stack and each layer in it. The field
//! `buttress.stack` of the span `call` is the name of the stack. The field `buttress.layer` of
//! events is the name of the layer, and `buttress.kind` tells the two timeouts of a stack apart.
//!
//! # Targets
//!
//! Each kind of layer has a target, so that a filter can select it:
//!
//! | target | events and spans of |
//! |---|---|
//! | `buttress::call` | the span `call` |
//! | `buttress::timeout` | both timeouts |
//! | `buttress::retry` | the retry, and the span `attempt` |
//! | `buttress::fallback` | the fallback |
//! | `buttress::bulkhead` | the bulkhead |
//! | `buttress::circuit_breaker` | the circuit breaker |
//! | `buttress::idempotency` | the idempotency layer |
//! | `buttress::chaos` | the chaos layers |
//! | `buttress::cache` | the cache |
//! | `buttress::endpoints` | the endpoints |
//! | `buttress::http` | the HTTP client and server layers, and the limits of bodies |
//!
//! # Traces
//!
//! A [`Stack`](crate::Stack) opens the span `call`. Its retry opens a span `attempt` in it for each
//! attempt. The spans of the client itself are in the attempt:
//!
//! ```text
//! call {buttress.stack="orders" buttress.attempts=2 buttress.outcome="success"}
//!   attempt {attempt=1 buttress.outcome="transient" error.type="503" otel.status_code="ERROR"}
//!     GET ..
//!   attempt {attempt=2 buttress.outcome="success"}
//!     GET ..
//! ```
//!
//! - The classifier of the stack decides whether a call failed. Under [`http`](crate::Stack::http),
//!   a final 503 is a failure, although the result is `Ok`. If a retry saves a call, only its first
//!   attempt has failed. Compose layers by hand with [`CallSpanLayer::classify`].
//! - [`field::OUTCOME`] has the outcomes, and [`field::ERROR_TYPE`] the causes. Neither contains a
//!   text of the service.
//! - A call that its caller dropped is `cancelled`, which is no error. A call or an attempt that
//!   was dropped at its deadline is `cut`, which is one.
//! - A span ends with its call: with the result, or with the body of a response whose head is no
//!   failure.
//! - The transitions of a breaker are in no span, because they are not about the call that caused
//!   them. `tracing-opentelemetry` takes an event at `ERROR` for a failure of the span around it.
//!   "idempotent operation has unknown outcome" is about its own operation, and therefore in its
//!   span.
//!
//! To connect the spans of a server to those of the attempts, write the trace context into each
//! attempt with [`on_send_fn`](crate::http::HttpClientBuilder::on_send_fn).
//!
//! With `tracing-opentelemetry`, the two spans have the kind `INTERNAL`. The field
//! [`field::STATUS`] is their status.
//!
//! # Metrics
//!
//! A [`Registry`] counts what a stack does once [`Stack::register`](crate::Stack::register) has
//! added it. [`Registry::gather`] reads the metrics, which the page
//! [metrics](crate::guide::metrics) lists. An [`Observer`] gets each [`Event`].
//! [`Registry::control`] changes a layer at run time. Exporters and a live page are crates of their
//! own: `buttress-prometheus`, `buttress-otel`, `buttress-metrics` and `buttress-admin`.
//!
//! # Events in an outage
//!
//! In an outage, a layer can reject thousands of calls in a second. Of the events "call rejected",
//! "call timed out", "retrying call", "retries exhausted", "fallback used", "fallback failed",
//! "stale response given", "response not kept" and "idempotency store failed", the first is at
//! `WARN`, and then one in 10 s for each layer and reason. It has the field `suppressed`, the
//! number of events since the last one at `WARN`. Those are at `DEBUG`. All other events are
//! emitted each time.
//!
//! When a circuit closes, the event "circuit closed" has the number of rejections of the whole
//! outage, and in `suppressed` those that no earlier line has counted. The first rejection of the
//! next outage is at `WARN`.
//!
//! Timeouts without a name, outside of a stack, count as one layer. A test that expects the event
//! of one at `WARN` must give it a name, because another test may have emitted the first.
//!
//! In a program without a subscriber, the feature `log` of `tracing` passes events to the crate
//! `log`, with the same levels.

mod call;
mod ended;
mod event;
pub mod field;
pub mod future;
mod gate;
mod gate_number;
mod kind;
mod log;
mod metrics;
mod observer;
mod reporter;
mod tracked;

use std::time::Duration;

use tracing::Span;

pub use crate::call::degraded::DegradedBy;

pub use self::{
    call::{CallSpan, CallSpanLayer},
    event::{CallOutcome, Event, Source},
    metrics::{
        BUCKETS, CATALOGUE, Control, Family, HistogramSnapshot, Instrument, InstrumentKind,
        Readiness, Registry, Series, Unready, Value,
    },
    observer::{Interest, Observer},
};
pub(crate) use self::{
    kind::Kind,
    log::{CALL, RETRY},
    metrics::{Drained, LayerState, Meter, Readings, ShardedCounter, instrument},
    reporter::{Reporter, ReporterCell, Reporters, reject},
    tracked::{Attempt, Tracked},
};

/// Records a value in the current span, if it is the span of a call or an attempt.
///
/// A span of the user may have a field of the same name.
pub(crate) fn record_in_own_span(field: &str, value: impl tracing::Value) {
    let span = Span::current();
    if span.metadata().is_some_and(|it| matches!(it.target(), CALL | RETRY)) {
        span.record(field, value);
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
