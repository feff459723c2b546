//! The results of the campaign, and the checks on them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Write,
};

use crate::{
    driver::Evidence,
    faults::Point,
    ledger::Charge,
    protocol::{Found, Policy, storage_key},
    stores::Kind,
};

/// The number of rounds at which the campaign supports its full claim.
pub(crate) const ROUNDS: u64 = 18;

/// The minimum number of faults on one store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Minimum {
    pub(crate) crashes: u64,
    pub(crate) at_each_point: u64,
    pub(crate) pauses: u64,
    pub(crate) store_restarts: u64,
}

impl Minimum {
    pub(crate) const FULL: Self =
        Self { crashes: 100, at_each_point: 15, pauses: 10, store_restarts: 10 };

    /// Returns the minimum for this number of rounds, which is lower for fewer rounds.
    pub(crate) fn of(rounds: u64) -> Self {
        Self {
            crashes: Self::FULL.crashes.min(6 * rounds),
            at_each_point: Self::FULL.at_each_point.min(rounds),
            pauses: Self::FULL.pauses.min(rounds),
            store_restarts: Self::FULL.store_restarts.min(rounds),
        }
    }
}

/// The results of one store.
#[derive(Debug, Default)]
pub(crate) struct Account {
    crashes: u64,
    by_point: BTreeMap<&'static str, u64>,
    worker_pauses: u64,
    store_pauses: u64,
    store_restarts: u64,
    keys: u64,
    executed_once: u64,
    executed_never: u64,
    pub(crate) executed_twice: u64,
    unknown: u64,
    unknown_executed: u64,
    unknown_by_cause: BTreeMap<String, u64>,
    contradictions: Vec<String>,
    stale_writes_refused: u64,
    /// The number of these that came while or after another run had the key under a newer fence.
    behind_a_newer_fence: u64,
    renewals_refused: u64,
    seconds: f64,
    /// Failures that have no number of their own.
    wrong: Vec<String>,
    /// Failures that a machine may also cause that has no time for leases of 300 ms.
    late: Vec<String>,
}

impl Account {
    pub(crate) fn of(evidence: &Evidence) -> Self {
        let mut account = Self {
            crashes: evidence.crashes.values().sum(),
            by_point: evidence.crashes.clone(),
            worker_pauses: evidence.worker_pauses,
            store_pauses: evidence.store_pauses,
            store_restarts: evidence.store_restarts,
            keys: evidence.histories.len() as u64,
            seconds: evidence.took.as_secs_f64(),
            ..Self::default()
        };
        let mut charges: HashMap<&str, Vec<&Charge>> = HashMap::new();
        for charge in &evidence.charges {
            charges.entry(&charge.key).or_default().push(charge);
        }
        for key in charges.keys().filter(|key| !evidence.histories.contains_key(**key)) {
            account.wrong.push(format!("a charge of {key:?}, which is no key of ours"));
        }
        for key in evidence.histories.keys() {
            let charges = charges.get(key.as_str()).map_or(&[][..], Vec::as_slice);
            account.count(key, charges);
            if let Some(found) = evidence.found.get(key) {
                account.judge(key, charges, found, evidence);
            }
        }
        account.count_stale(evidence);
        account
    }

    fn count(&mut self, key: &str, charges: &[&Charge]) {
        match charges.len() {
            0 => self.executed_never += 1,
            1 => self.executed_once += 1,
            _ => {
                self.executed_twice += 1;
                self.wrong.push(format!("{key} was executed {} times: {charges:?}", charges.len()));
            }
        }
    }

    fn judge(&mut self, key: &str, charges: &[&Charge], found: &Found, evidence: &Evidence) {
        let Some(history) = evidence.histories.get(key) else { return };
        let charged: HashSet<&str> =
            charges.iter().filter_map(|charge| Some(charge.said.as_ref()?.id.as_str())).collect();
        let hits = history.hits.join(", ");
        let mut contradict = |what: String| {
            self.contradictions
                .push(format!("{key} ({:?}; hit by {hits}): {what}", history.policy));
        };
        if history.bodies.len() > 1 {
            contradict(format!("was answered {}", history.bodies.join(" and ")));
        }
        for body in history.bodies.iter().filter(|body| !charged.contains(body.as_str())) {
            contradict(format!("was answered {body}, which is not in the ledger"));
        }
        if history.mismatches > 0 {
            contradict("the same payload was said to be another".to_owned());
        }
        if history.policy == Policy::Quarantine && history.unknown_since.is_some() {
            if history.done_after_unknown {
                contradict("was unknown, and was then answered as done".to_owned());
            }
            let fences = charges.iter().filter_map(|charge| Some(charge.said.as_ref()?.fence));
            let lost = history.unknown_fence;
            if fences.into_iter().any(|fence| lost.is_some_and(|lost| fence > lost)) {
                contradict("was run again after it was unknown".to_owned());
            }
            match (found, lost) {
                (Found::Unknown(fence), Some(lost)) if *fence != lost => {
                    contradict(format!("was unknown under fence {lost}, and is under {fence}"));
                }
                (Found::Unknown(_), _) => {}
                _ => contradict(format!("was unknown, and now it is {found:?}")),
            }
        }
        match found {
            Found::Completed(body) if !charged.contains(body.as_str()) => {
                contradict(format!("{body} is recorded, which is not in the ledger"));
            }
            Found::Completed(body) if history.bodies.iter().any(|told| told != body) => {
                contradict(format!("{body} is recorded, and {:?} was answered", history.bodies));
            }
            Found::Absent if !charges.is_empty() => {
                contradict("was executed, and the store has forgotten it".to_owned());
            }
            _ => {}
        }

        match found {
            Found::Unknown(_) => {
                self.unknown += 1;
                self.unknown_executed += u64::from(!charges.is_empty());
                match history.cause() {
                    Some(cause) => *self.unknown_by_cause.entry(cause).or_default() += 1,
                    None => {
                        let what = "is unknown, and nothing had happened to it";
                        self.late.push(format!("{key} {what}: {history:?}, {charges:?}"));
                    }
                }
            }
            Found::InFlight => {
                self.wrong
                    .push(format!("{key} is in flight 2 leases after the last fault ({hits})"));
            }
            Found::Failed(why) => self.wrong.push(format!("{key} cannot be looked up: {why}")),
            Found::Absent | Found::Completed(_) => {}
        }
        if history.unanswered > 0 {
            self.late.push(format!("a client of {key} was never told: {history:?}, {charges:?}"));
        }
        for odd in &history.odd {
            self.wrong.push(format!("{key} was answered: {odd}"));
        }
    }

    /// Counts the writes of late workers that were rejected, and finds those that were not.
    fn count_stale(&mut self, evidence: &Evidence) {
        let ours: HashSet<String> = evidence
            .histories
            .keys()
            .filter_map(|key| Some(storage_key(key)?.to_string()))
            .collect();
        let mut completed: HashMap<&str, u64> = HashMap::new();
        for noted in evidence.journal.iter().filter(|noted| noted.step == "complete") {
            let first = completed.entry(noted.key.as_str()).or_insert(noted.fence);
            *first = noted.fence.min(*first);
        }
        let mut newest: HashMap<&str, u64> = HashMap::new();
        for noted in &evidence.journal {
            let key = noted.key.as_str();
            if !ours.contains(key) {
                self.wrong.push(format!("the journal knows {key}, which is no key of ours"));
            }
            match noted.step.as_str() {
                "claim" => {
                    let newest = newest.entry(key).or_default();
                    *newest = noted.fence.max(*newest);
                    // A later claim must find the record completed, or the record was written late.
                    if let Some(recorded) = completed.get(key).filter(|fence| **fence < noted.fence)
                    {
                        self.contradictions.push(format!(
                            "{key} was recorded under fence {recorded}, and claimed under {}",
                            noted.fence
                        ));
                    }
                }
                "stale_complete" | "stale_abandon" => {
                    self.stale_writes_refused += 1;
                    let newer = newest.get(key).is_some_and(|newest| *newest > noted.fence);
                    self.behind_a_newer_fence += u64::from(newer);
                }
                // Not counted, because the renewal may only have overlapped with the end of its
                // own run.
                "stale_renew" => self.renewals_refused += 1,
                _ => {}
            }
        }
    }

    /// Returns all failures.
    pub(crate) fn failures(&self, minimum: Minimum) -> Vec<String> {
        let mut failures: Vec<String> =
            self.contradictions.iter().chain(&self.wrong).cloned().collect();
        let mut must = |holds: bool, what: String| {
            if !holds {
                failures.push(what);
            }
        };
        must(self.executed_twice == 0, format!("executed_twice is {}", self.executed_twice));
        must(
            self.executed_once + self.executed_never == self.keys,
            "not every key was executed once or never".to_owned(),
        );
        must(self.stale_writes_refused > 0, "no stale write was rejected".to_owned());
        let crashes = minimum.crashes;
        must(self.crashes >= crashes, format!("fewer than {crashes} crashes"));
        for point in Point::KILLS {
            let (name, least) = (point.name(), minimum.at_each_point);
            let there = self.by_point.get(name).copied().unwrap_or_default();
            must(there >= least, format!("fewer than {least} crashes at {name}"));
        }
        for (pauses, whose) in [(self.worker_pauses, "workers"), (self.store_pauses, "the store")] {
            let least = minimum.pauses;
            must(pauses >= least, format!("fewer than {least} pauses of {whose}"));
        }
        let least = minimum.store_restarts;
        must(self.store_restarts >= least, format!("fewer than {least} restarts of the store"));
        failures
    }

    /// Returns the failures that a busy machine may also cause.
    pub(crate) fn delays(&self, kind: Kind, minimum: Minimum) -> Vec<String> {
        let mut delays = self.late.clone();
        if self.executed_once * 10 < self.keys * 9 {
            delays.push(format!("of {} keys only {} were executed", self.keys, self.executed_once));
        }
        if self.seconds >= 180.0 {
            delays.push(format!("it took {:.0} s, which is too long", self.seconds));
        }
        // In few rounds this may not happen, because a worker must resume at the right moment.
        let full = minimum.at_each_point == Minimum::FULL.at_each_point;
        if kind != Kind::Redb && full && self.behind_a_newer_fence == 0 {
            delays.push("no stale write met a newer fence".to_owned());
        }
        delays
    }

    /// Returns a text for people.
    pub(crate) fn describe(&self, kind: Kind) -> String {
        let points: Vec<String> =
            self.by_point.iter().map(|(point, count)| format!("{count} {point}")).collect();
        let mut text = format!("{}, in {:.1} s:\n", kind.name(), self.seconds);
        let _ = writeln!(text, "  {} crashes of workers ({})", self.crashes, points.join(", "));
        let _ = writeln!(
            text,
            "  {} pauses of workers, {} of the store, {} restarts of the store",
            self.worker_pauses, self.store_pauses, self.store_restarts
        );
        let _ = writeln!(
            text,
            "  {} keys: executed once {}, never {}, twice {}",
            self.keys, self.executed_once, self.executed_never, self.executed_twice
        );
        let causes: Vec<String> =
            self.unknown_by_cause.iter().map(|(cause, count)| format!("{count} {cause}")).collect();
        let _ = writeln!(
            text,
            "  {} unknown (traced to: {}), of these {} executed; {} contradictions",
            self.unknown,
            causes.join(", "),
            self.unknown_executed,
            self.contradictions.len()
        );
        let _ = write!(
            text,
            "  {} stale writes rejected ({} behind a newer fence), and {} renewals",
            self.stale_writes_refused, self.behind_a_newer_fence, self.renewals_refused
        );
        text
    }

    /// Returns JSON for programs.
    pub(crate) fn to_json(&self) -> String {
        let points: Vec<String> =
            self.by_point.iter().map(|(point, count)| format!("\"{point}\":{count}")).collect();
        format!(
            "{{\"crashes\":{},\"by_point\":{{{}}},\"pauses\":{},\"store_restarts\":{},\"keys\":{},\
             \"executed_once\":{},\"executed_never\":{},\"executed_twice\":{},\"unknown\":{},\
             \"unknown_executed\":{},\"contradictions\":{},\"stale_writes_refused\":{},\
             \"seconds\":{:.1}}}",
            self.crashes,
            points.join(","),
            self.worker_pauses + self.store_pauses,
            self.store_restarts,
            self.keys,
            self.executed_once,
            self.executed_never,
            self.executed_twice,
            self.unknown,
            self.unknown_executed,
            self.contradictions.len(),
            self.stale_writes_refused,
            self.seconds,
        )
    }

    /// Returns the results of the rounds without the idempotency layer, as JSON.
    pub(crate) fn control_to_json(&self, rounds: u64) -> String {
        format!(
            "{{\"rounds\":{rounds},\"keys\":{},\"executed_once\":{},\"executed_never\":{},\
             \"executed_twice\":{}}}",
            self.keys, self.executed_once, self.executed_never, self.executed_twice
        )
    }
}
