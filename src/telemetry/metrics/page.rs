//! The page `docs/metrics.md`, which is made from the catalogue.
//!
//!     BLESS=1 cargo test --all-features --lib the_metrics_page

use std::{collections::BTreeSet, env, fmt::Write, fs};

use super::{
    super::{
        event::CallOutcome,
        field::{ERROR_TYPE, KIND, LAYER, OUTCOME, REASON, STACK},
        kind::Kind,
    },
    histogram::BUCKETS,
    instrument::{
        CALL_DURATION, CATALOGUE, CIRCUIT_BREAKER_TRANSITIONS, ENDPOINTS, ENDPOINTS_TRANSITIONS,
        Instrument, InstrumentKind, RETRIED, STATE, VERSION,
    },
    rows,
};

/// All kinds of layers.
const KINDS: [Kind; Kind::COUNT] = [
    Kind::Call,
    Kind::TotalTimeout,
    Kind::AttemptTimeout,
    Kind::Timeout,
    Kind::Retry,
    Kind::Fallback,
    Kind::Bulkhead,
    Kind::CircuitBreaker,
    Kind::Idempotency,
    Kind::Chaos,
    Kind::Endpoints,
    Kind::Cache,
    Kind::Client,
    Kind::Server,
    Kind::Body,
    Kind::IdleBody,
    Kind::UnreadBody,
    Kind::ReplayBody,
];

/// The question that each instrument answers. An instrument without one is a row to add here.
const ANSWERS: &[(&str, &str)] = &[
    ("buttress.call.duration", "How long do callers wait, and how many calls are there?"),
    ("buttress.call.active", "How many calls are under way?"),
    ("buttress.call.errors", "Why do calls fail?"),
    ("buttress.attempt.duration", "Is it the dependency that is slow or fails, or is it us?"),
    ("buttress.attempt.errors", "Why do attempts fail, although retries save the calls?"),
    ("buttress.attempt.resends", "How much load do retries add?"),
    ("buttress.rejections", "Which layer rejects calls, and why?"),
    ("buttress.retry.calls", "Do retries help?"),
    ("buttress.retry.ended", "What stopped the retries?"),
    ("buttress.retry.delay", "How long do calls pause?"),
    ("buttress.retry.budget.ratio", "Is the budget spent?"),
    ("buttress.retry.budget.tokens", "How many retries are left?"),
    ("buttress.bulkhead.active", "How full is it?"),
    ("buttress.bulkhead.limit", "How full can it be?"),
    ("buttress.bulkhead.queued", "How long is the queue?"),
    ("buttress.bulkhead.queue.limit", "How long can the queue be?"),
    ("buttress.bulkhead.queue.duration", "How long do calls wait for a slot?"),
    ("buttress.circuit_breaker.state", "Is the circuit open?"),
    ("buttress.circuit_breaker.state.duration", "Was it opened by hand and forgotten?"),
    ("buttress.circuit_breaker.next_probe", "When does it try again?"),
    ("buttress.circuit_breaker.transitions", "Does it flap?"),
    ("buttress.circuit_breaker.failure_ratio", "How near is it to opening?"),
    ("buttress.circuit_breaker.slow_ratio", "How near is it to opening for slow calls?"),
    ("buttress.circuit_breaker.window.calls", "Are there enough calls to decide?"),
    ("buttress.circuit_breaker.probes", "Why does it not close?"),
    ("buttress.circuit_breaker.keys", "How many upstreams are down?"),
    ("buttress.circuit_breaker.keys.evicted", "Are there more keys than room?"),
    ("buttress.fallback.calls", "How many responses are degraded, and why not more?"),
    ("buttress.fallback.switched_off", "Was it switched off and forgotten?"),
    ("buttress.http.replay.overflow", "Which requests are too large to retry?"),
    ("buttress.http.hints", "Does the server ask for time, and does it get it?"),
    ("buttress.http.body.duration", "Do responses end late?"),
    ("buttress.idempotency.requests", "How many requests are repetitions?"),
    ("buttress.idempotency.unknown", "Must somebody look at an operation?"),
    ("buttress.idempotency.leases.lost", "Are runs longer than their lease?"),
    ("buttress.idempotency.active", "How many operations run?"),
    ("buttress.idempotency.store.duration", "Is the store slow?"),
    ("buttress.chaos.armed", "Is this outage ours, on purpose?"),
    ("buttress.chaos.faults", "Which faults were injected?"),
    ("buttress.chaos.hung", "How many calls hang on purpose?"),
    ("buttress.endpoints", "How many instances are out?"),
    ("buttress.endpoints.active", "How many calls do the instances have?"),
    ("buttress.endpoints.transitions", "Why does an instance get no calls?"),
    ("buttress.cache.requests", "How many calls does the cache save?"),
    ("buttress.cache.entries", "How full is the cache?"),
    ("buttress.cache.bytes", "How much memory does it use?"),
    ("buttress.cache.shared_calls", "How many calls are under way for it?"),
    ("buttress.observer.panics", "Is an observer broken?"),
    ("buttress.info", "Which version runs?"),
];

const HEAD: &str = "\
# Metrics

A [`Registry`](crate::telemetry::Registry) has the numbers of the stacks and layers that are
registered in it by `Stack::register`, or by `register` of a layer. This page lists its instruments.
Exporters are crates of their own:
`buttress-prometheus`, `buttress-otel` and `buttress-metrics`. All of them use these names.

- **Attributes.** `buttress.stack` is the [name](crate::Stack::name) of the stack. A layer outside
  of a named stack does not have it. The calls of stacks without a name have `call`.
  `buttress.layer` is the name of the layer, which is that of its stack by default. In Prometheus,
  dots become underscores. The values of the other attributes are fixed and are listed below. No
  attribute ever has a key, a host, a path or a payload, so the number of series is bounded by the
  number of names.
- **Equal names.** Layers of one registry with the same stack, name and kind have the same series.
  Their counts add up. A gauge of kind *sum* adds up too. Of a *max* or *min*, the greatest or
  smallest value counts.
- **Zero.** A series of a counter exists from the registration on, with the value 0, so that
  `increase()` sees its first event. Only `buttress.call.errors` and `buttress.attempt.errors`
  have a series for each cause that has occurred.
- **End.** Series end with the last layer that has their names. A new layer with these names begins
  at 0.
- **Reserved.** The attribute `buttress.source` is for a later release. It is an attribute of the
  span of a call already.
- **New values.** A minor release can add instruments and values, but no attribute to an instrument
  of this list other than the reserved one.
";

fn kind(kind: InstrumentKind) -> &'static str {
    match kind {
        InstrumentKind::Counter => "counter",
        InstrumentKind::Gauge => "gauge (sum)",
        InstrumentKind::MaxGauge => "gauge (max)",
        InstrumentKind::MinGauge => "gauge (min)",
        InstrumentKind::Histogram => "histogram",
    }
}

/// Returns the values of an attribute in the series that exist before their first event.
fn values(instrument: &Instrument, attribute: &str) -> BTreeSet<&'static str> {
    let mut values = BTreeSet::new();
    for kind in KINDS {
        for row in rows::counters(kind).iter().chain(rows::durations(kind)) {
            if row.instrument.name != instrument.name {
                continue;
            }
            let own = instrument.attributes.iter().filter(|it| ![STACK, LAYER, KIND].contains(it));
            let pairs = own.zip(row.values).filter(|(name, _)| **name == attribute);
            values.extend(pairs.map(|(_, value)| value).filter(|value| !value.is_empty()));
            if attribute == KIND {
                values.insert(kind.as_str());
            }
        }
    }
    values
}

/// Returns the values of an attribute as a list.
fn list(instrument: &Instrument, attribute: &str) -> String {
    let mut values = values(instrument, attribute);
    if values.is_empty() {
        match attribute {
            STACK | LAYER => return "any name".to_owned(),
            VERSION => return "the version of buttress".to_owned(),
            ERROR_TYPE => {
                return "the kind of a rejection, or a cause that the classifier names, such as \
                        `503` or `connect`; `_OTHER` after the first 48"
                    .to_owned();
            }
            OUTCOME => {
                values.extend(CallOutcome::ALL.map(CallOutcome::as_str));
                if instrument.name != CALL_DURATION.name {
                    values.remove(CallOutcome::Degraded.as_str());
                }
            }
            STATE => values.extend(states(instrument)),
            REASON => {
                values.extend(CATALOGUE.iter().flat_map(|it| self::values(it, attribute)));
            }
            _ => panic!("no values of {attribute} of {}", instrument.name),
        }
    }
    if instrument.attributes.contains(&RETRIED) && attribute == OUTCOME {
        // Calls that were not retried and succeeded are not counted in a row of their own.
        values.insert("success");
    }
    values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ")
}

/// Returns the states that a gauge shows, most of which are those of its transitions.
fn states(gauge: &Instrument) -> BTreeSet<&'static str> {
    let is_of_endpoints = gauge.name == ENDPOINTS.name;
    let transitions =
        if is_of_endpoints { &ENDPOINTS_TRANSITIONS } else { &CIRCUIT_BREAKER_TRANSITIONS };
    let mut states = values(transitions, STATE);
    states.extend(is_of_endpoints.then_some("draining"));
    states
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    let buckets = BUCKETS.map(|bound| bound.to_string()).join(", ");
    let mut put = |line: String| _ = writeln!(page, "{line}");
    put(format!("- **Buckets.** The upper bounds of all histograms, in seconds:\n  {buckets}.\n"));
    put("| instrument | in Prometheus | kind | unit | answers |\n|---|---|---|---|---|".to_owned());
    for it in CATALOGUE {
        let answer = ANSWERS.iter().find(|(name, _)| *name == it.name);
        let (_, answer) = answer.unwrap_or_else(|| panic!("no answer for {} in ANSWERS", it.name));
        let (prometheus, kind) = (it.prometheus_name(), kind(it.kind));
        put(format!("| `{}` | `{prometheus}` | {kind} | `{}` | {answer} |", it.name, it.unit));
    }
    put("\n## Meanings and attributes".to_owned());
    for it in CATALOGUE {
        put(format!("\n### `{}`\n\n{}\n", it.name, it.help));
        if it.attributes.is_empty() {
            put("It has no attributes.".to_owned());
        } else {
            put("| attribute | values |\n|---|---|".to_owned());
        }
        for attribute in it.attributes {
            put(format!("| `{attribute}` | {} |", list(it, attribute)));
        }
    }
    page
}

#[test]
fn the_metrics_page_is_made_from_the_catalogue() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    let page = page();
    if env::var_os("BLESS").is_some() {
        fs::write(path, &page).unwrap();
    }
    let current = fs::read_to_string(path).unwrap_or_default();
    assert!(
        current == page,
        "docs/metrics.md is not that of the catalogue. Run \
         `BLESS=1 cargo test --all-features --lib the_metrics_page`."
    );
}
