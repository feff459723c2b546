//! The snapshots of all dependencies, from two readings of a registry.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

use buttress::telemetry::{
    Family, HistogramSnapshot, Series, Value,
    field::{ERROR_TYPE, FAULT, KIND, LAYER, OUTCOME, REASON, STACK},
};

use crate::snapshot::{
    Breaker, Bulkhead, Cache, Cause, Chaos, Ended, Endpoints, Fallback, Idempotency, Rejected,
    Retry, Snapshot, Totals,
};

const STATE: &str = "buttress.state";
const RETRIED: &str = "buttress.retried";
const RESULT: &str = "buttress.result";

/// The fewest durations of which a median counts as usual.
const USUAL: u64 = 20;

type Attributes = [(&'static str, Cow<'static, str>)];

/// The values of a reading, by instrument and attributes.
struct Earlier<'a>(HashMap<(&'static str, &'a Attributes), &'a Value>);

impl<'a> Earlier<'a> {
    fn new(families: &'a [Family]) -> Self {
        let series = families.iter().flat_map(|family| {
            let name = family.instrument.name;
            family.series.iter().map(move |it| ((name, it.attributes.as_slice()), &it.value))
        });
        Self(series.collect())
    }

    fn value(&self, name: &'static str, series: &Series) -> Option<&Value> {
        self.0.get(&(name, series.attributes.as_slice())).copied()
    }

    /// Returns the growth of a counter.
    fn growth(&self, name: &'static str, series: &Series) -> u64 {
        let (now, then) = (&series.value, self.value(name, series));
        // A smaller number is that of a new layer with the name.
        let then = then.map_or(0.0, Value::as_number);
        let now = now.as_number();
        whole(if now < then { now } else { now - then })
    }

    /// Returns the durations before and after the earlier reading.
    fn durations(
        &self,
        name: &'static str,
        series: &Series,
    ) -> (HistogramSnapshot, HistogramSnapshot) {
        let Value::Histogram(now) = &series.value else { return Default::default() };
        match self.value(name, series) {
            Some(Value::Histogram(then)) => (HistogramSnapshot::clone(then), now.since(then)),
            _ => (HistogramSnapshot::new(), HistogramSnapshot::clone(now)),
        }
    }
}

fn whole(number: f64) -> u64 {
    // The cast saturates.
    number as u64
}

/// A snapshot that is being made, with the durations of its outcomes.
#[derive(Default)]
struct Draft {
    snapshot: Snapshot,
    calls: Durations,
    attempts: Durations,
}

/// The durations of calls or attempts.
#[derive(Default)]
struct Durations {
    /// Those that succeeded or failed recently.
    recent: HistogramSnapshot,
    /// Those that succeeded recently.
    success: HistogramSnapshot,
    /// Those that succeeded before.
    before: HistogramSnapshot,
}

impl Durations {
    fn into_ended(self, ended: &mut Option<Ended>) {
        let Some(ended) = ended else { return };
        let seconds = |it: &HistogramSnapshot, quantile| {
            it.quantile(quantile).map(|duration| duration.as_secs_f64())
        };
        ended.p50 = seconds(&self.recent, 0.5);
        ended.p99 = seconds(&self.recent, 0.99);
        ended.success_p99 = seconds(&self.success, 0.99);
        ended.usual = seconds(&self.before, 0.5).filter(|_| self.before.count() >= USUAL);
    }
}

/// Makes the snapshots of all dependencies, in the order of their names.
///
/// `seconds` is the time between the readings.
pub(crate) fn snapshots(now: &[Family], then: &[Family], seconds: f64) -> Vec<Snapshot> {
    let earlier = Earlier::new(then);
    let mut drafts = BTreeMap::<(bool, String), Draft>::new();
    for family in now {
        for series in &family.series {
            let stack = series.attribute(STACK);
            // Numbers of the process belong to no dependency.
            let Some(name) = stack.or(series.attribute(LAYER)) else { continue };
            let draft = drafts.entry((stack.is_none(), name.to_owned())).or_insert_with(|| {
                let (name, stack) = (name.to_owned(), stack.map(str::to_owned));
                let snapshot = Snapshot { name, stack, seconds, ..Snapshot::default() };
                Draft { snapshot, ..Draft::default() }
            });
            take(draft, &earlier, family.instrument.name, series);
        }
    }
    drafts.into_values().map(finish).collect()
}

fn finish(draft: Draft) -> Snapshot {
    let Draft { mut snapshot, calls, attempts } = draft;
    calls.into_ended(&mut snapshot.calls);
    attempts.into_ended(&mut snapshot.attempts);
    let most_first = |it: &Cause| (std::cmp::Reverse(it.count), it.cause.clone());
    snapshot.errors.sort_by_key(most_first);
    snapshot.rejections.sort_by_key(|it| std::cmp::Reverse(it.count));
    if let Some(retry) = &mut snapshot.retry {
        retry.ended.sort_by_key(most_first);
    }
    if let Some(chaos) = &mut snapshot.chaos {
        chaos.faults.sort_by_key(most_first);
    }
    snapshot
}

/// Takes the value of a series into the snapshot.
fn take(draft: &mut Draft, earlier: &Earlier<'_>, name: &'static str, series: &Series) {
    let Some(part) = name.strip_prefix("buttress.") else { return };
    if let Some(part) = part.strip_prefix("endpoints") {
        take_endpoints(draft, part, series);
    } else if let Some(part) = part.strip_prefix("circuit_breaker.") {
        take_breaker(draft, earlier, (name, part), series);
    } else if let Some(part) = part.strip_prefix("bulkhead.") {
        take_bulkhead(draft, part, series);
    } else if let Some(part) = part.strip_prefix("fallback.") {
        take_fallback(draft, earlier, (name, part), series);
    } else if let Some(part) = part.strip_prefix("cache.") {
        take_cache(draft, part, earlier.growth(name, series), series);
    } else if let Some(part) = part.strip_prefix("retry.") {
        take_retry(draft, earlier, (name, part), series);
    } else if let Some(part) = part.strip_prefix("idempotency.") {
        take_idempotency(draft, earlier, (name, part), series);
    } else if let Some(part) = part.strip_prefix("chaos.") {
        take_chaos(draft, earlier, (name, part), series);
    } else {
        take_calls(draft, earlier, (name, part), series);
    }
}

fn take_calls(
    draft: &mut Draft,
    earlier: &Earlier<'_>,
    (name, part): (&'static str, &str),
    series: &Series,
) {
    let snapshot = &mut draft.snapshot;
    let attribute = |name| series.attribute(name).unwrap_or_default();
    match part {
        "call.duration" => {
            take_ended(&mut draft.calls, &mut snapshot.calls, earlier, name, series);
            let total = whole(series.value.as_number());
            count(&mut snapshot.totals, attribute(OUTCOME), total);
        }
        "attempt.duration" => {
            take_ended(&mut draft.attempts, &mut snapshot.attempts, earlier, name, series);
        }
        "call.active" => snapshot.active = Some(whole(series.value.as_number())),
        "call.errors" => {
            add_cause(&mut snapshot.errors, attribute(ERROR_TYPE), earlier.growth(name, series));
        }
        "rejections" => {
            let recent = earlier.growth(name, series);
            let (kind, cause) = (attribute(KIND), attribute(ERROR_TYPE));
            let same = |it: &&mut Rejected| it.kind == kind && it.cause == cause;
            match snapshot.rejections.iter_mut().find(same) {
                _ if recent == 0 => {}
                Some(known) => known.count += recent,
                None => snapshot.rejections.push(Rejected {
                    kind: kind.to_owned(),
                    cause: cause.to_owned(),
                    count: recent,
                }),
            }
        }
        "attempt.resends" => {
            retry(snapshot, series).resends += earlier.growth(name, series);
        }
        _ => {}
    }
}

/// Takes a histogram of calls or attempts.
fn take_ended(
    durations: &mut Durations,
    ended: &mut Option<Ended>,
    earlier: &Earlier<'_>,
    name: &'static str,
    series: &Series,
) {
    let (before, recent) = earlier.durations(name, series);
    let ended = ended.get_or_insert_default();
    let (outcome, more) = (series.attribute(OUTCOME), recent.count());
    match outcome {
        Some("success") => ended.success += more,
        Some("failure") => ended.failure += more,
        Some("rejected") => ended.rejected += more,
        Some("degraded") => ended.degraded += more,
        _ => ended.cancelled += more,
    }
    if matches!(outcome, Some("success" | "failure")) {
        durations.recent.merge(&recent);
    }
    if outcome == Some("success") {
        durations.success.merge(&recent);
        durations.before.merge(&before);
    }
}

fn count(totals: &mut Totals, outcome: &str, more: u64) {
    match outcome {
        "success" => totals.success += more,
        "failure" => totals.failure += more,
        "rejected" => totals.rejected += more,
        "degraded" => totals.degraded += more,
        _ => totals.cancelled += more,
    }
}

fn add_cause(causes: &mut Vec<Cause>, cause: &str, more: u64) {
    match causes.iter_mut().find(|it| it.cause == cause) {
        _ if more == 0 => {}
        Some(known) => known.count += more,
        None => causes.push(Cause { cause: cause.to_owned(), count: more }),
    }
}

fn layer(series: &Series) -> String {
    series.attribute(LAYER).unwrap_or_default().to_owned()
}

fn retry<'a>(snapshot: &'a mut Snapshot, series: &Series) -> &'a mut Retry {
    snapshot.retry.get_or_insert_with(|| Retry { layer: layer(series), ..Retry::default() })
}

fn take_retry(
    draft: &mut Draft,
    earlier: &Earlier<'_>,
    (name, part): (&'static str, &str),
    series: &Series,
) {
    let number = series.value.as_number();
    let totals = &mut draft.snapshot.totals;
    match (part, series.attribute(RETRIED), series.attribute(OUTCOME)) {
        ("calls", Some("true"), Some("success")) => totals.saved += whole(number),
        ("calls", Some("true"), _) => totals.lost += whole(number),
        _ => {}
    }
    let retry = retry(&mut draft.snapshot, series);
    match part {
        "budget.ratio" => retry.budget = Some(retry.budget.unwrap_or(1.0).min(number)),
        "budget.tokens" => *retry.tokens.get_or_insert_default() += number,
        "ended" => {
            let reason = series.attribute(REASON).unwrap_or_default();
            add_cause(&mut retry.ended, reason, earlier.growth(name, series));
        }
        "calls" if series.attribute(RETRIED) == Some("true") => {
            let more = earlier.growth(name, series);
            match series.attribute(OUTCOME) {
                Some("success") => retry.saved += more,
                _ => retry.lost += more,
            }
        }
        _ => {}
    }
}

fn take_fallback(
    draft: &mut Draft,
    earlier: &Earlier<'_>,
    (name, part): (&'static str, &str),
    series: &Series,
) {
    let named = || Fallback { layer: layer(series), ..Fallback::default() };
    let fallback = draft.snapshot.fallback.get_or_insert_with(named);
    if part == "switched_off" {
        fallback.is_off |= series.value.as_number() > 0.0;
        return;
    }
    let place = match series.attribute(RESULT) {
        Some("used") => &mut fallback.used,
        Some("off") => &mut fallback.off,
        Some("failed") => &mut fallback.failed,
        Some("declined") => &mut fallback.declined,
        _ => return,
    };
    *place += earlier.growth(name, series);
}

fn take_cache(draft: &mut Draft, part: &str, growth: u64, series: &Series) {
    let named = || Cache { layer: layer(series), ..Cache::default() };
    let cache = draft.snapshot.cache.get_or_insert_with(named);
    let number = whole(series.value.as_number());
    match part {
        "entries" => *cache.entries.get_or_insert_default() += number,
        "bytes" => *cache.bytes.get_or_insert_default() += number,
        "requests" => {
            let place = match series.attribute(RESULT) {
                Some("hit") => &mut cache.hits,
                Some("stale") => &mut cache.stale,
                Some("collapsed") => &mut cache.collapsed,
                _ => &mut cache.forwarded,
            };
            *place += growth;
        }
        _ => {}
    }
}

fn take_endpoints(draft: &mut Draft, part: &str, series: &Series) {
    let named = || Endpoints { layer: layer(series), ..Endpoints::default() };
    let endpoints = draft.snapshot.endpoints.get_or_insert_with(named);
    let number = whole(series.value.as_number());
    match (part, series.attribute(STATE)) {
        ("", Some("usable")) => endpoints.usable += number,
        ("", Some("ejected")) => endpoints.ejected += number,
        ("", Some("check_failed")) => endpoints.check_failed += number,
        ("", Some("draining")) => endpoints.draining += number,
        (".active", _) => *endpoints.active.get_or_insert_default() += number,
        _ => {}
    }
}

fn take_bulkhead(draft: &mut Draft, part: &str, series: &Series) {
    let named = || Bulkhead { layer: layer(series), ..Bulkhead::default() };
    let bulkhead = draft.snapshot.bulkhead.get_or_insert_with(named);
    let place = match part {
        "active" => &mut bulkhead.active,
        "limit" => &mut bulkhead.limit,
        "queued" => &mut bulkhead.queued,
        "queue.limit" => &mut bulkhead.queue_limit,
        _ => return,
    };
    *place.get_or_insert_default() += whole(series.value.as_number());
}

fn take_breaker(
    draft: &mut Draft,
    earlier: &Earlier<'_>,
    (name, part): (&'static str, &str),
    series: &Series,
) {
    /// The states, the worst last.
    const STATES: [&str; 5] = ["closed", "disabled", "half_open", "open", "forced_open"];
    let named = || Breaker { layer: layer(series), ..Breaker::default() };
    let breaker = draft.snapshot.breaker.get_or_insert_with(named);
    let number = series.value.as_number();
    let worst = |place: &mut Option<f64>| *place = Some(place.unwrap_or(0.0).max(number));
    let state = series.attribute(STATE).unwrap_or_default();
    match part {
        "state" if number > 0.0 => {
            let place = |state: Option<&str>| STATES.iter().position(|it| Some(*it) == state);
            if place(Some(state)) >= place(breaker.state.as_deref()) {
                breaker.state = Some(state.to_owned());
                breaker.layer = layer(series);
            }
        }
        "state.duration" => worst(&mut breaker.since),
        "next_probe" if number > 0.0 => worst(&mut breaker.next_probe),
        "failure_ratio" => worst(&mut breaker.failure_ratio),
        "slow_ratio" => worst(&mut breaker.slow_ratio),
        "window.calls" => *breaker.window_calls.get_or_insert_default() += whole(number),
        "transitions" if matches!(state, "open" | "forced_open") => {
            breaker.opened += whole(number);
        }
        "probes" => {
            let more = earlier.growth(name, series);
            match series.attribute(RESULT) {
                Some("passed") => breaker.probes_passed += more,
                Some("failed" | "expired") => breaker.probes_failed += more,
                _ => {}
            }
        }
        "keys" => {
            let keys = whole(number);
            *breaker.keys.get_or_insert_default() += keys;
            let rejects = !matches!(state, "closed" | "disabled");
            *breaker.keys_open.get_or_insert_default() += if rejects { keys } else { 0 };
            let forced = if state == "forced_open" { keys } else { 0 };
            *breaker.keys_forced_open.get_or_insert_default() += forced;
        }
        _ => {}
    }
}

fn take_idempotency(
    draft: &mut Draft,
    earlier: &Earlier<'_>,
    (name, part): (&'static str, &str),
    series: &Series,
) {
    let named = || Idempotency { layer: layer(series), ..Idempotency::default() };
    let idempotency = draft.snapshot.idempotency.get_or_insert_with(named);
    let number = series.value.as_number();
    match part {
        "active" => *idempotency.active.get_or_insert_default() += whole(number),
        "unknown" => {
            idempotency.unknown += earlier.growth(name, series);
            idempotency.unknown_total += whole(number);
        }
        "leases.lost" => idempotency.leases_lost += earlier.growth(name, series),
        _ => {}
    }
}

fn take_chaos(
    draft: &mut Draft,
    earlier: &Earlier<'_>,
    (name, part): (&'static str, &str),
    series: &Series,
) {
    let named = || Chaos { layer: layer(series), ..Chaos::default() };
    let chaos = draft.snapshot.chaos.get_or_insert_with(named);
    let number = whole(series.value.as_number());
    match part {
        "armed" => chaos.armed += number,
        "hung" => chaos.hung += number,
        "faults" => {
            let fault = series.attribute(FAULT).unwrap_or_default();
            add_cause(&mut chaos.faults, fault, earlier.growth(name, series));
        }
        _ => {}
    }
}
