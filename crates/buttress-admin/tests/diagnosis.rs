//! The diagnosis of snapshots that are made up.

use buttress_admin::{
    Breaker, Bulkhead, Cache, Cause, Chaos, Ended, Endpoints, Failing, Fallback, Idempotency,
    Rejected, Retry, Severity, Snapshot, Whose, diagnose,
};

use Severity::{Critical, Ok as Healthy, Warning};
use Whose::{Hand, Nobody, Them, Us};

/// Calls or attempts: successes, failures, rejections, cancellations.
fn ended([success, failure, rejected, cancelled]: [u64; 4]) -> Ended {
    let mut ended = Ended::default();
    (ended.success, ended.failure) = (success, failure);
    (ended.rejected, ended.cancelled) = (rejected, cancelled);
    ended
}

/// The same, with the median, the 99th percentile and the usual median in seconds.
fn timed(counts: [u64; 4], p50: f64, p99: f64, usual: f64) -> Ended {
    let mut ended = ended(counts);
    (ended.p50, ended.p99, ended.success_p99) = (Some(p50), Some(p99), Some(p99));
    ended.usual = (usual > 0.0).then_some(usual);
    ended
}

fn cause(cause: &str, count: u64) -> Cause {
    let mut it = Cause::default();
    (it.cause, it.count) = (cause.to_owned(), count);
    it
}

fn rejected(kind: &str, cause: &str, count: u64) -> Rejected {
    let mut it = Rejected::default();
    (it.kind, it.cause, it.count) = (kind.to_owned(), cause.to_owned(), count);
    it
}

/// A breaker in a state, and the time since.
fn breaker(state: &str, since: f64) -> Breaker {
    let mut breaker = Breaker::default();
    (breaker.layer, breaker.state) = ("orders".to_owned(), Some(state.to_owned()));
    breaker.since = Some(since);
    breaker
}

fn bulkhead(active: u64, limit: u64, queued: u64) -> Bulkhead {
    let mut bulkhead = Bulkhead::default();
    bulkhead.active = Some(active);
    (bulkhead.limit, bulkhead.queued) = (Some(limit), Some(queued));
    bulkhead
}

fn retry(saved: u64, lost: u64, ended: &[Cause]) -> Retry {
    let mut retry = Retry::default();
    (retry.saved, retry.lost, retry.ended) = (saved, lost, ended.to_vec());
    retry
}

fn failing(ago: f64, failed: u64, sent: u64, cause: &str) -> Failing {
    let mut failing = Failing::default();
    (failing.ago, failing.failed, failing.sent) = (ago, failed, sent);
    failing.cause = Some(cause.to_owned());
    failing
}

fn of(seconds: f64, fill: impl FnOnce(&mut Snapshot)) -> Snapshot {
    let mut snapshot = Snapshot::default();
    (snapshot.name, snapshot.stack) = ("orders".to_owned(), Some("orders".to_owned()));
    snapshot.seconds = seconds;
    snapshot.active = Some(0);
    snapshot.calls = Some(ended([0; 4]));
    snapshot.attempts = Some(ended([0; 4]));
    fill(&mut snapshot);
    snapshot
}

/// Checks each row: what it is, the snapshot, whose fault, the severity and the sentence.
fn check(rows: Vec<(&str, Snapshot, Whose, Severity, &str)>) {
    let mut wrong = Vec::new();
    for (what, snapshot, whose, severity, sentence) in rows {
        let found = diagnose(&snapshot);
        if (found.whose, found.severity, &*found.sentence) != (whose, severity, sentence) {
            wrong.push(format!(
                "{what}\n  wanted {whose:?} {severity:?} {sentence}\n  found  {:?} {:?} {}",
                found.whose, found.severity, found.sentence
            ));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn fallback(is_off: bool, used: u64, off: u64) -> Fallback {
    let mut fallback = Fallback::default();
    (fallback.is_off, fallback.used, fallback.off) = (is_off, used, off);
    fallback
}

/// The same calls, of which so many had a degraded response.
fn degraded(mut ended: Ended, degraded: u64) -> Ended {
    ended.degraded = degraded;
    ended
}

#[test]
fn a_fallback_hides_neither_an_outage_nor_a_switch() {
    check(vec![
        (
            "switched off",
            of(10.0, |it| {
                it.calls = Some(degraded(ended([0; 4]), 80));
                it.fallback = Some(fallback(true, 0, 80));
            }),
            Hand,
            Warning,
            "Switched off by hand: no call reaches the dependency. It stays off until somebody \
             switches it on. 100 % of 80 calls got a degraded response.",
        ),
        (
            "the fallback saves all calls",
            of(10.0, |it| {
                (it.attempts, it.calls) = (None, Some(degraded(ended([20, 0, 0, 0]), 60)));
                it.fallback = Some(fallback(false, 60, 0));
            }),
            Them,
            Warning,
            "The dependency fails: 75 % of 80 attempts in 10 s failed. 75 % of 80 calls got a \
             degraded response.",
        ),
        (
            "a fallback that responds instead of an open circuit and a full bulkhead",
            of(10.0, |it| {
                (it.attempts, it.calls) = (None, Some(degraded(ended([20, 0, 5, 0]), 60)));
                it.fallback = Some(fallback(false, 60, 0));
                it.rejections = vec![
                    rejected("circuit_breaker", "circuit_open", 30),
                    rejected("bulkhead", "bulkhead_full", 5),
                ];
            }),
            Them,
            Critical,
            "The dependency fails: 60 % of 50 attempts in 10 s failed. Waiting for it also fills \
             the bulkhead. 71 % of 85 calls got a degraded response.",
        ),
        (
            "calls that hang and get the fallback are not dropped by their callers",
            of(10.0, |it| {
                it.calls = Some(degraded(ended([0, 0, 0, 10]), 80));
                it.attempts = Some(ended([0; 4]));
                it.fallback = Some(fallback(false, 80, 0));
                it.rejections = vec![rejected("total_timeout", "timed_out", 80)];
            }),
            Them,
            Warning,
            "The dependency does not respond. 100 % of 80 calls in 10 s exceeded the total \
             timeout. 100 % of 80 calls got a degraded response.",
        ),
        (
            "an earlier switch",
            of(10.0, |it| {
                it.calls = Some(degraded(ended([60, 0, 0, 0]), 20));
                it.attempts = Some(ended([60, 0, 0, 0]));
                it.fallback = Some(fallback(false, 0, 20));
            }),
            Nobody,
            Healthy,
            "Healthy: 75 % of 80 calls in 10 s succeeded. 25 % of 80 calls got a degraded \
             response.",
        ),
    ]);
}

fn cache(hits: u64, stale: u64, forwarded: u64) -> Cache {
    let mut cache = Cache::default();
    (cache.hits, cache.stale, cache.forwarded) = (hits, stale, forwarded);
    cache
}

#[test]
fn a_cache_hides_no_outage_and_its_hits_are_no_attempts() {
    check(vec![
        (
            "responses of the cache do not dilute failures",
            of(10.0, |it| {
                (it.attempts, it.calls) = (None, Some(ended([930, 10, 0, 0])));
                it.cache = Some(cache(900, 0, 40));
            }),
            Them,
            Warning,
            "The dependency fails: 25 % of 40 attempts in 10 s failed.",
        ),
        (
            "older responses for calls that fail",
            of(10.0, |it| {
                it.calls = Some(degraded(ended([60, 0, 0, 0]), 20));
                it.attempts = Some(ended([60, 0, 0, 0]));
                it.cache = Some(cache(0, 20, 60));
            }),
            Them,
            Warning,
            "The dependency fails, or takes too long: the cache gave 20 older responses in 10 s \
             instead. 25 % of 80 calls got a degraded response.",
        ),
        (
            "older responses that are renewed",
            of(10.0, |it| {
                it.calls = Some(ended([80, 0, 0, 0]));
                it.attempts = Some(ended([20, 0, 0, 0]));
                it.cache = Some(cache(40, 20, 20));
            }),
            Nobody,
            Healthy,
            "Healthy: 80 calls in 10 s, none failed.",
        ),
    ]);
}

/// A snapshot of endpoints, which know no calls: usable, ejected, of failed checks, draining.
fn endpoints([usable, ejected, check_failed, draining]: [u64; 4]) -> Snapshot {
    of(10.0, |it| {
        (it.stack, it.active, it.calls, it.attempts) = (None, None, None, None);
        let mut endpoints = Endpoints::default();
        (endpoints.usable, endpoints.ejected) = (usable, ejected);
        (endpoints.check_failed, endpoints.draining) = (check_failed, draining);
        it.endpoints = Some(endpoints);
    })
}

#[test]
fn endpoints_that_are_out_are_told() {
    check(vec![
        ("all usable", endpoints([3, 0, 0, 0]), Nobody, Healthy, "Nothing was rejected in 10 s."),
        (
            "one of four drained",
            endpoints([3, 0, 0, 1]),
            Nobody,
            Healthy,
            "Nothing was rejected in 10 s.",
        ),
        (
            "one of four ejected",
            endpoints([3, 1, 0, 0]),
            Them,
            Warning,
            "1 of 4 endpoints is out: 1 failed too often in a row.",
        ),
        (
            "half of four out",
            endpoints([2, 1, 1, 0]),
            Them,
            Critical,
            "2 of 4 endpoints are out: 1 failed too often in a row, and the check of 1 fails.",
        ),
        (
            "all out",
            endpoints([0, 0, 3, 0]),
            Them,
            Critical,
            "None of 3 endpoints is usable: the checks of 3 fail. They still get calls, because \
             there are no better ones.",
        ),
        (
            "one drained, the others out",
            endpoints([0, 2, 1, 1]),
            Them,
            Critical,
            "None of 4 endpoints is usable: 2 failed too often in a row, and the check of 1 \
             fails. 1 is drained. The others still get calls, because there are no better ones.",
        ),
        (
            "all drained",
            endpoints([0, 0, 0, 2]),
            Hand,
            Critical,
            "No call reaches the dependency: all of 2 endpoints are drained.",
        ),
        (
            "none",
            endpoints([0; 4]),
            Us,
            Critical,
            "There are no endpoints: none was added, or all were removed.",
        ),
    ]);
}

#[test]
fn it_is_them_if_attempts_fail_are_slow_or_do_not_end() {
    check(vec![
        (
            "503 before the circuit opens",
            of(10.0, |it| {
                it.calls = Some(ended([153, 200, 0, 0]));
                it.attempts = Some(timed([153, 259, 0, 0], 0.02, 0.09, 0.02));
                it.errors = vec![cause("503", 200)];
                it.breaker = Some(breaker("closed", 900.0));
            }),
            Them,
            Critical,
            "503 from the dependency: 63 % of 412 attempts in 10 s failed.",
        ),
        (
            "503, and retries save all calls",
            of(10.0, |it| {
                it.calls = Some(ended([300, 0, 0, 0]));
                it.attempts = Some(ended([300, 42, 0, 0]));
                it.retry = Some(retry(42, 0, &[]));
            }),
            Them,
            Warning,
            "The dependency fails: 12 % of 342 attempts in 10 s failed. Retries saved 42 of 42 \
             calls.",
        ),
        (
            "503, and the budget is spent",
            of(10.0, |it| {
                it.calls = Some(ended([10, 90, 0, 0]));
                it.attempts = Some(ended([10, 100, 0, 0]));
                it.errors = vec![cause("503", 90)];
                it.retry = Some(retry(1, 9, &[cause("budget", 81)]));
            }),
            Them,
            Critical,
            "503 from the dependency: 91 % of 110 attempts in 10 s failed. Retries saved 1 of 10 \
             calls. The retry budget is spent.",
        ),
        (
            "a few failures among many calls",
            of(10.0, |it| {
                it.calls = Some(ended([9_200, 800, 0, 0]));
                it.attempts = Some(ended([9_200, 800, 0, 0]));
                it.errors = vec![cause("503", 800)];
            }),
            Them,
            Critical,
            "503 from the dependency: 8 % of 10,000 attempts in 10 s failed.",
        ),
        (
            "responses that break off",
            of(10.0, |it| {
                it.calls = Some(ended([10, 90, 0, 0]));
                it.attempts = Some(ended([100, 0, 0, 0]));
                it.errors = vec![cause("body", 90)];
            }),
            Them,
            Critical,
            "The dependency breaks off responses: 90 % of 100 calls in 10 s failed.",
        ),
        (
            "a few timeouts among many calls",
            of(10.0, |it| {
                it.calls = Some(ended([980, 0, 20, 0]));
                it.attempts = Some(timed([980, 20, 0, 0], 0.02, 2.0, 0.02));
                it.attempt_limit = Some(2.0);
                it.errors = vec![cause("timed_out", 20)];
                it.rejections = vec![rejected("attempt_timeout", "timed_out", 20)];
            }),
            Them,
            Warning,
            "The dependency does not respond within 2 s: 2 % of 1,000 attempts in 10 s failed.",
        ),
        (
            "the open circuit, in the seconds in which it opened",
            of(10.0, |it| {
                it.calls = Some(ended([153, 200, 310, 0]));
                it.attempts = Some(ended([153, 259, 310, 0]));
                it.errors = vec![cause("circuit_open", 310), cause("503", 200)];
                it.rejections = vec![rejected("circuit_breaker", "circuit_open", 310)];
                it.breaker = Some(breaker("open", 3.0));
                it.breaker.as_mut().unwrap().next_probe = Some(11.0);
            }),
            Them,
            Critical,
            "503 from the dependency: 63 % of 412 attempts in 10 s failed. The circuit opened 3 s \
             ago. 31 calls/s are rejected. Next probe in 11 s.",
        ),
        (
            "the open circuit, later",
            of(10.0, |it| {
                it.calls = Some(ended([0, 0, 950, 0]));
                it.attempts = Some(ended([0, 0, 950, 0]));
                it.errors = vec![cause("circuit_open", 950)];
                it.rejections = vec![rejected("circuit_breaker", "circuit_open", 950)];
                it.breaker = Some(breaker("open", 130.0));
                it.breaker.as_mut().unwrap().next_probe = Some(0.4);
                it.last_failing = Some(failing(131.0, 259, 412, "connect"));
            }),
            Them,
            Critical,
            "No connection to the dependency: 63 % of 412 attempts failed. The circuit opened 2 \
             min ago. 95 calls/s are rejected. Next probe in 400 ms.",
        ),
        (
            "the open circuit, and nobody has asked before",
            of(1.0, |it| {
                it.breaker = Some(breaker("open", 19.0));
                it.breaker.as_mut().unwrap().reason = Some("slow call rate".to_owned());
            }),
            Them,
            Critical,
            "The dependency is too slow. The circuit opened 19 s ago.",
        ),
        (
            "the open circuit, long after another outage",
            of(10.0, |it| {
                it.calls = Some(timed([12, 0, 90, 0], 3.0, 4.0, 2.9));
                it.attempts = Some(timed([12, 0, 90, 0], 3.0, 4.0, 2.9));
                it.breaker = Some(breaker("open", 9.0));
                it.breaker.as_mut().unwrap().reason = Some("slow_call_rate".to_owned());
                it.last_failing = Some(failing(3_000.0, 259, 412, "503"));
            }),
            Them,
            Critical,
            "The dependency is too slow. The circuit opened 9 s ago.",
        ),
        (
            "open circuits by key",
            of(10.0, |it| {
                it.calls = Some(ended([400, 0, 4, 0]));
                it.attempts = Some(ended([400, 0, 4, 0]));
                it.rejections = vec![rejected("circuit_breaker", "circuit_open", 4)];
                let mut keyed = Breaker::default();
                keyed.state = Some("open".to_owned());
                (keyed.keys, keyed.keys_open) = (Some(1_200), Some(3));
                it.breaker = Some(keyed);
            }),
            Them,
            Critical,
            "The dependency failed too often. The circuit is open for 3 of 1,200 keys. 4 \
             calls \
             in 10 s were rejected.",
        ),
        (
            "open circuits by key, one of them by hand",
            of(10.0, |it| {
                let mut keyed = Breaker::default();
                keyed.state = Some("forced_open".to_owned());
                (keyed.keys, keyed.keys_open) = (Some(1_200), Some(3));
                keyed.keys_forced_open = Some(1);
                it.breaker = Some(keyed);
            }),
            Them,
            Critical,
            "The dependency failed too often. The circuit is open for 3 of 1,200 keys, 1 of them \
             by hand.",
        ),
        (
            "no circuit is open by key",
            of(10.0, |it| {
                it.calls = Some(ended([400, 0, 0, 0]));
                let mut keyed = Breaker::default();
                keyed.state = Some("disabled".to_owned());
                (keyed.keys, keyed.keys_open) = (Some(1_200), Some(0));
                it.breaker = Some(keyed);
            }),
            Nobody,
            Healthy,
            "Healthy: 400 calls in 10 s, none failed.",
        ),
        (
            "a dependency that hangs",
            of(10.0, |it| {
                it.calls = Some(ended([10, 0, 30, 0]));
                it.attempts = Some(timed([10, 30, 0, 0], 2.0, 2.0, 0.04));
                it.attempts.as_mut().unwrap().success_p99 = Some(0.06);
                it.attempt_limit = Some(2.0);
                it.rejections = vec![rejected("attempt_timeout", "timed_out", 30)];
            }),
            Them,
            Critical,
            "The dependency does not respond within 2 s: 75 % of 40 attempts in 10 s failed.",
        ),
        (
            "a dependency that is slow",
            of(10.0, |it| {
                it.calls = Some(timed([40, 0, 0, 0], 0.9, 1.1, 0.04));
                it.attempts = Some(timed([40, 0, 0, 0], 0.9, 1.1, 0.04));
            }),
            Them,
            Warning,
            "The dependency takes 900 ms instead of 40 ms. No call is lost to that yet.",
        ),
        (
            "a slow dependency that fills the bulkhead",
            of(10.0, |it| {
                it.calls = Some(timed([100, 0, 240, 0], 2.1, 2.4, 0.04));
                it.attempts = Some(timed([100, 0, 240, 0], 2.1, 2.4, 0.04));
                it.bulkhead = Some(bulkhead(64, 64, 0));
                it.rejections = vec![rejected("bulkhead", "bulkhead_full", 240)];
            }),
            Them,
            Critical,
            "The dependency takes 2.1 s instead of 40 ms, which fills the bulkhead: 64 of 64 slots \
             taken. 24 calls/s are rejected.",
        ),
        (
            "a failing dependency that fills the bulkhead",
            of(10.0, |it| {
                it.calls = Some(ended([0, 50, 240, 0]));
                it.attempts = Some(ended([0, 50, 240, 0]));
                it.errors = vec![cause("bulkhead_full", 240), cause("reset", 50)];
                it.bulkhead = Some(bulkhead(64, 64, 0));
                it.rejections = vec![rejected("bulkhead", "bulkhead_full", 240)];
            }),
            Them,
            Critical,
            "The dependency breaks off connections: 100 % of 50 attempts in 10 s failed. Waiting \
             for it also fills the bulkhead.",
        ),
        (
            "few timeouts that fill the bulkhead",
            of(10.0, |it| {
                it.calls = Some(timed([80, 0, 320, 0], 0.02, 2.0, 0.02));
                it.attempts = Some(timed([80, 20, 300, 0], 0.02, 2.0, 0.02));
                it.attempt_limit = Some(2.0);
                it.bulkhead = Some(bulkhead(4, 4, 0));
                it.rejections = vec![
                    rejected("bulkhead", "bulkhead_full", 300),
                    rejected("attempt_timeout", "timed_out", 20),
                ];
            }),
            Them,
            Critical,
            "The dependency does not respond within 2 s: 20 % of 100 attempts in 10 s failed. \
             Waiting for it also fills the bulkhead.",
        ),
        (
            "calls that do not end",
            of(10.0, |it| {
                it.active = Some(12);
                it.calls.as_mut().unwrap().usual = Some(0.04);
            }),
            Them,
            Warning,
            "The dependency does not respond: 12 calls are in flight, and none ended in 10 s. \
             Usually it takes 40 ms.",
        ),
        (
            "only cancelled calls",
            of(10.0, |it| {
                it.calls = Some(ended([0, 0, 0, 30]));
                it.attempts = Some(ended([0, 0, 0, 30]));
            }),
            Them,
            Critical,
            "Callers dropped 30 calls in 10 s before a response, and no other call ended. Either \
             the dependency does not respond, or callers do not wait long enough.",
        ),
        (
            "most calls are cancelled",
            of(10.0, |it| {
                it.calls = Some(timed([20, 0, 0, 180], 0.02, 0.04, 0.02));
                it.attempts = Some(timed([20, 0, 0, 180], 0.02, 0.04, 0.02));
            }),
            Them,
            Critical,
            "Callers dropped 90 % of 200 calls in 10 s before a response. Either the dependency \
             does not respond, or callers do not wait long enough. Calls usually take 20 ms.",
        ),
        (
            "a slow dependency whose callers leave",
            of(10.0, |it| {
                it.calls = Some(timed([40, 0, 0, 20], 0.9, 1.1, 0.04));
                it.attempts = Some(timed([40, 0, 0, 20], 0.9, 1.1, 0.04));
            }),
            Them,
            Warning,
            "The dependency takes 900 ms instead of 40 ms. Callers dropped 20 calls in 10 s.",
        ),
        (
            "a slow dependency that also fails",
            of(10.0, |it| {
                it.errors = vec![cause("503", 10)];
                it.calls = Some(timed([990, 10, 0, 0], 0.9, 1.1, 0.04));
                it.attempts = Some(timed([990, 10, 0, 0], 0.9, 1.1, 0.04));
            }),
            Them,
            Warning,
            "The dependency takes 900 ms instead of 40 ms. 1 % of 1,000 attempts in 10 s failed \
             (503).",
        ),
        (
            "an idempotency store that is down",
            of(10.0, |it| {
                (it.calls, it.attempts, it.active) = (None, None, None);
                it.rejections = vec![rejected("idempotency", "idempotency_store_unavailable", 14)];
            }),
            Them,
            Critical,
            "The idempotency store fails or does not respond. 14 calls in 10 s were rejected.",
        ),
    ]);
}

#[test]
fn it_is_us_if_our_limits_are_too_small() {
    check(vec![
        (
            "a full bulkhead",
            of(10.0, |it| {
                it.calls = Some(timed([1_000, 0, 240, 0], 0.64, 0.9, 0.62));
                it.attempts = Some(timed([1_000, 0, 240, 0], 0.64, 0.9, 0.62));
                it.bulkhead = Some(bulkhead(64, 64, 0));
                it.rejections = vec![rejected("bulkhead", "bulkhead_full", 240)];
            }),
            Us,
            Critical,
            "Our bulkhead is full: 64 of 64 slots taken. 24 calls/s are rejected. The dependency \
             takes 640 ms, as before.",
        ),
        (
            "a full bulkhead, and few failures",
            of(10.0, |it| {
                it.calls = Some(timed([90, 10, 900, 0], 0.64, 0.9, 0.62));
                it.attempts = Some(timed([90, 10, 900, 0], 0.64, 0.9, 0.62));
                it.errors = vec![cause("bulkhead_full", 900), cause("503", 10)];
                it.bulkhead = Some(bulkhead(8, 8, 0));
                it.rejections = vec![rejected("bulkhead", "bulkhead_full", 900)];
            }),
            Us,
            Critical,
            "Our bulkhead is full: 8 of 8 slots taken. 90 calls/s are rejected. The dependency \
             takes 640 ms, as before. 10 % of 100 attempts in 10 s failed (503).",
        ),
        (
            "a full bulkhead, and an open circuit of one key",
            of(10.0, |it| {
                it.calls = Some(ended([1_000, 0, 244, 0]));
                it.bulkhead = Some(bulkhead(64, 64, 0));
                it.rejections = vec![
                    rejected("bulkhead", "bulkhead_full", 240),
                    rejected("circuit_breaker", "circuit_open", 4),
                ];
                let mut keyed = Breaker::default();
                (keyed.keys, keyed.keys_open) = (Some(1_200), Some(1));
                it.breaker = Some(keyed);
            }),
            Us,
            Critical,
            "Our bulkhead is full: 64 of 64 slots taken. 24 calls/s are rejected.",
        ),
        (
            "a full queue",
            of(10.0, |it| {
                it.calls = Some(ended([10, 0, 5, 0]));
                it.bulkhead = Some(bulkhead(1, 1, 1));
                it.rejections = vec![rejected("bulkhead", "queue_timed_out", 5)];
            }),
            Us,
            Critical,
            "Our bulkhead is full: 1 of 1 slot taken. 5 calls in 10 s were rejected. 1 call waits \
             for a slot.",
        ),
        (
            "few calls that find the bulkhead full",
            of(10.0, |it| {
                it.calls = Some(ended([10_000, 0, 3, 0]));
                it.bulkhead = Some(bulkhead(40, 64, 0));
                it.rejections = vec![rejected("bulkhead", "bulkhead_full", 3)];
            }),
            Us,
            Warning,
            "Our bulkhead is full: it has 64 slots. 3 calls in 10 s were rejected.",
        ),
        (
            "few calls that exceed the total timeout",
            of(10.0, |it| {
                it.calls = Some(ended([10_000, 0, 3, 0]));
                it.attempts = Some(timed([10_000, 0, 0, 0], 0.01, 0.03, 0.01));
                it.rejections = vec![rejected("total_timeout", "timed_out", 3)];
            }),
            Us,
            Warning,
            "Under 1 % of 10,003 calls in 10 s exceeded the total timeout. The dependency takes 10 \
             ms, as before.",
        ),
        (
            "few callers with no time left",
            of(10.0, |it| {
                it.calls = Some(ended([10_000, 0, 3, 0]));
                it.rejections = vec![rejected("client", "deadline_exceeded", 3)];
            }),
            Us,
            Warning,
            "3 calls in 10 s came with too little time left before the deadline.",
        ),
        (
            "a queue that still works",
            of(10.0, |it| {
                it.calls = Some(ended([10, 0, 0, 0]));
                it.bulkhead = Some(bulkhead(8, 8, 3));
            }),
            Us,
            Warning,
            "Our bulkhead is full: 8 of 8 slots taken. 3 calls wait for a slot.",
        ),
        (
            "an attempt timeout that is too short",
            of(10.0, |it| {
                it.calls = Some(ended([60, 0, 40, 0]));
                it.attempts = Some(timed([60, 40, 0, 0], 0.042, 0.049, 0.0));
                it.attempt_limit = Some(0.05);
                it.rejections = vec![rejected("attempt_timeout", "timed_out", 40)];
            }),
            Us,
            Critical,
            "Our attempt timeout of 50 ms is too short for a dependency that takes 49 ms. 40 % of \
             100 attempts in 10 s timed out.",
        ),
        (
            "a circuit that is open because of such a timeout",
            of(10.0, |it| {
                it.calls = Some(ended([0, 0, 90, 0]));
                it.attempts.as_mut().unwrap().usual = Some(0.045);
                it.attempt_limit = Some(0.05);
                it.breaker = Some(breaker("open", 20.0));
                it.last_failing = Some(failing(21.0, 40, 60, "timed_out"));
            }),
            Us,
            Critical,
            "Our attempt timeout of 50 ms is too short for a dependency that takes 45 ms. The \
             circuit opened 20 s ago.",
        ),
        (
            "a half-open circuit whose probes meet such a timeout",
            of(10.0, |it| {
                it.calls = Some(ended([0, 0, 90, 0]));
                it.attempts.as_mut().unwrap().usual = Some(0.045);
                it.attempt_limit = Some(0.05);
                it.breaker = Some(breaker("half_open", 1.0));
                it.last_failing = Some(failing(301.0, 40, 60, "timed_out"));
            }),
            Us,
            Warning,
            "Our attempt timeout of 50 ms is too short for a dependency that takes 45 ms. \
             Recovering: the circuit is half-open and admits only probes.",
        ),
        (
            "a total timeout that is spent on pauses",
            of(10.0, |it| {
                it.calls = Some(ended([80, 0, 20, 0]));
                it.attempts = Some(timed([80, 5, 0, 0], 0.01, 0.03, 0.01));
                it.total_limit = Some(0.2);
                it.rejections = vec![rejected("total_timeout", "timed_out", 20)];
            }),
            Us,
            Critical,
            "20 % of 100 calls in 10 s exceeded the total timeout of 200 ms. Attempts take up to \
             30 \
             ms, so the rest is pauses and queues.",
        ),
        (
            "callers with no time left",
            of(10.0, |it| {
                it.calls = Some(ended([80, 0, 20, 0]));
                it.rejections = vec![rejected("client", "deadline_exceeded", 20)];
            }),
            Us,
            Critical,
            "20 calls in 10 s came with too little time left before the deadline.",
        ),
        (
            "calls that panic",
            of(10.0, |it| {
                it.calls = Some(ended([2, 4, 0, 0]));
                it.errors = vec![cause("panic", 4)];
                it.attempts = Some(ended([2, 4, 0, 0]));
            }),
            Us,
            Critical,
            "Calls panic in this process: 4 of 6 attempts in 10 s failed.",
        ),
        (
            "a spent budget",
            of(10.0, |it| {
                it.calls = Some(ended([990, 10, 0, 0]));
                it.attempts = Some(ended([990, 10, 0, 0]));
                it.retry = Some(retry(0, 0, &[cause("budget", 10)]));
            }),
            Us,
            Warning,
            "Our retry budget is spent: 10 failed calls in 10 s were not retried.",
        ),
        (
            "operations whose outcome is unknown",
            of(10.0, |it| {
                (it.calls, it.attempts, it.active) = (None, None, None);
                let mut idempotency = Idempotency::default();
                (idempotency.unknown, idempotency.unknown_total) = (1, 4);
                it.idempotency = Some(idempotency);
            }),
            Us,
            Critical,
            "Nothing was rejected in 10 s. The outcome of 1 operation in 10 s is unknown. Resolve \
             them by hand.",
        ),
    ]);
}

#[test]
fn it_is_a_hand_if_somebody_turned_a_switch() {
    check(vec![
        (
            "forced open and forgotten",
            of(10.0, |it| {
                it.calls = Some(ended([0, 0, 80, 0]));
                it.rejections = vec![rejected("circuit_breaker", "circuit_open", 80)];
                it.breaker = Some(breaker("forced_open", 52.0 * 60.0));
            }),
            Hand,
            Critical,
            "Forced open by hand 52 min ago: no call reaches the dependency. 8 calls/s are \
             rejected. \
             It stays open until somebody closes it.",
        ),
        (
            "forced open for some time",
            of(10.0, |it| {
                let mut breaker = breaker("forced_open", 47.0 * 60.0);
                (breaker.actor, breaker.next_probe) = (Some("ada".to_owned()), Some(780.0));
                it.breaker = Some(breaker);
            }),
            Hand,
            Critical,
            "Forced open by ada 47 min ago: no call reaches the dependency. It ends by itself in \
             13 \
             min.",
        ),
        (
            "forced open because it failed",
            of(10.0, |it| {
                it.calls = Some(ended([153, 259, 80, 0]));
                it.attempts = Some(ended([153, 259, 80, 0]));
                it.errors = vec![cause("503", 259)];
                it.breaker = Some(breaker("forced_open", 4.0));
            }),
            Hand,
            Critical,
            "Forced open by hand 4 s ago: no call reaches the dependency. It stays open until \
             somebody closes it. Before that, 63 % of 412 attempts in 10 s failed (503).",
        ),
        (
            "forced open by key",
            of(10.0, |it| {
                it.calls = Some(ended([400, 0, 4, 0]));
                it.rejections = vec![rejected("circuit_breaker", "circuit_open", 4)];
                let mut keyed = Breaker::default();
                keyed.state = Some("forced_open".to_owned());
                (keyed.keys, keyed.keys_open) = (Some(1_200), Some(2));
                keyed.keys_forced_open = Some(2);
                it.breaker = Some(keyed);
            }),
            Hand,
            Critical,
            "The circuit is forced open by hand for 2 of 1,200 keys: none of their calls reaches \
             the dependency. 4 calls in 10 s were rejected.",
        ),
        (
            "chaos that is armed",
            of(10.0, |it| {
                // A layer outside of a stack knows no calls.
                (it.stack, it.calls, it.attempts) = (None, None, None);
                let mut chaos = Chaos::default();
                (chaos.armed, chaos.hung) = (1, 3);
                chaos.faults = vec![cause("lost_response", 20), cause("error", 4)];
                it.chaos = Some(chaos);
            }),
            Hand,
            Critical,
            "Chaos is armed: faults are injected on purpose. 24 faults were injected in 10 s, \
             most of the kind lost response. 3 calls hang.",
        ),
        (
            "chaos that is armed without calls",
            of(10.0, |it| {
                (it.stack, it.calls, it.attempts) = (None, None, None);
                let mut chaos = Chaos::default();
                chaos.armed = 1;
                it.chaos = Some(chaos);
            }),
            Hand,
            Warning,
            "Chaos is armed: faults are injected on purpose.",
        ),
        (
            "disabled",
            of(10.0, |it| {
                it.calls = Some(ended([80, 0, 0, 0]));
                it.breaker = Some(breaker("disabled", 7_200.0));
            }),
            Hand,
            Warning,
            "The circuit breaker was disabled by hand 2 h ago. It protects nothing.",
        ),
    ]);
    check(vec![(
        "disabled while the dependency fails",
        of(10.0, |it| {
            it.calls = Some(ended([0, 80, 0, 0]));
            it.attempts = Some(ended([0, 80, 0, 0]));
            it.errors = vec![cause("UNAVAILABLE", 80)];
            it.breaker = Some(breaker("disabled", 300.0));
        }),
        Them,
        Critical,
        "UNAVAILABLE from the dependency: 100 % of 80 attempts in 10 s failed. The circuit breaker \
         was disabled by hand 5 min ago.",
    )]);
}

#[test]
fn it_is_nobody_if_calls_are_well_or_there_are_none() {
    check(vec![
        ("never called", of(1.0, |_| {}), Nobody, Healthy, "No calls yet."),
        ("idle", of(10.0, |it| it.totals.success = 7), Nobody, Healthy, "No calls in 10 s."),
        (
            "calls that take their time",
            of(10.0, |it| it.active = Some(1)),
            Nobody,
            Healthy,
            "1 call is in flight, and none ended in 10 s.",
        ),
        (
            "calls of which none has ever ended",
            of(10.0, |it| it.active = Some(420)),
            Nobody,
            Warning,
            "420 calls are in flight, and none ended in 10 s. None has ended since the start, so \
             the dependency may not respond.",
        ),
        (
            "the first second",
            of(1.0, |it| it.active = Some(420)),
            Nobody,
            Healthy,
            "420 calls are in flight, and none ended in 1 s.",
        ),
        (
            "healthy",
            of(10.0, |it| {
                it.calls = Some(timed([412, 0, 0, 3], 0.004, 0.061, 0.004));
                it.attempts = Some(timed([412, 0, 0, 3], 0.004, 0.061, 0.004));
                it.breaker = Some(breaker("closed", 900.0));
            }),
            Nobody,
            Healthy,
            "Healthy: 412 calls in 10 s, none failed.",
        ),
        (
            "few failures",
            of(10.0, |it| {
                it.calls = Some(ended([990, 10, 0, 0]));
                it.attempts = Some(ended([990, 15, 0, 0]));
                it.retry = Some(retry(5, 0, &[]));
            }),
            Nobody,
            Healthy,
            "Healthy: 99 % of 1,000 calls in 10 s succeeded. Retries saved 5.",
        ),
        (
            "recovered",
            of(10.0, |it| {
                it.calls = Some(ended([40, 0, 0, 0]));
                let mut breaker = breaker("closed", 12.0);
                breaker.opened = 1;
                it.breaker = Some(breaker);
            }),
            Nobody,
            Healthy,
            "Recovered 12 s ago: 40 calls in 10 s, none failed.",
        ),
        (
            "a layer outside of a stack",
            of(10.0, |it| (it.calls, it.attempts, it.active) = (None, None, None)),
            Nobody,
            Healthy,
            "Nothing was rejected in 10 s.",
        ),
        (
            "rejections before the circuit closed again",
            of(10.0, |it| {
                it.calls = Some(ended([40, 0, 60, 0]));
                it.rejections = vec![rejected("circuit_breaker", "circuit_open", 60)];
                let mut breaker = breaker("closed", 4.0);
                breaker.opened = 1;
                it.breaker = Some(breaker);
            }),
            Nobody,
            Healthy,
            "Recovered 4 s ago: 40 % of 100 calls in 10 s succeeded.",
        ),
        (
            "requests of a stack that are wrong",
            of(10.0, |it| {
                it.calls = Some(ended([900, 0, 100, 0]));
                it.attempts = Some(ended([900, 1, 0, 0]));
                it.rejections = vec![rejected("idempotency", "idempotency_key_missing", 100)];
            }),
            Nobody,
            Warning,
            "100 calls were rejected in 10 s, most as idempotency_key_missing.",
        ),
        (
            "a stack that rejects all calls",
            of(10.0, |it| {
                it.calls = Some(ended([0, 0, 30, 0]));
                it.rejections = vec![
                    rejected("rate_limit", "rate_limited", 29),
                    rejected("idempotency", "idempotency_in_flight", 1),
                ];
            }),
            Nobody,
            Warning,
            "30 calls were rejected in 10 s, most as rate_limited.",
        ),
        (
            "timeouts of attempts that a retry repeats",
            of(10.0, |it| {
                it.calls = Some(ended([900, 0, 60, 0]));
                it.attempts = Some(ended([900, 20, 60, 0]));
                it.retry = Some(retry(20, 0, &[]));
                it.rejections = vec![
                    rejected("circuit_breaker", "circuit_open", 60),
                    rejected("attempt_timeout", "timed_out", 20),
                ];
            }),
            Nobody,
            Healthy,
            "Healthy: 94 % of 960 calls in 10 s succeeded. Retries saved 20.",
        ),
        (
            "a circuit outside of a stack that closed again",
            of(10.0, |it| {
                (it.calls, it.attempts, it.active) = (None, None, None);
                it.rejections = vec![rejected("circuit_breaker", "circuit_open", 60)];
                it.breaker = Some(breaker("closed", 4.0));
            }),
            Nobody,
            Warning,
            "60 calls were rejected in 10 s, most as circuit_open.",
        ),
        (
            "requests that are wrong",
            of(10.0, |it| {
                (it.calls, it.attempts, it.active) = (None, None, None);
                it.rejections = vec![rejected("idempotency", "idempotency_mismatch", 2)];
            }),
            Nobody,
            Warning,
            "2 calls were rejected in 10 s, most as idempotency_mismatch.",
        ),
    ]);
    check(vec![(
        "recovering",
        of(10.0, |it| {
            it.calls = Some(ended([1, 0, 90, 0]));
            it.rejections = vec![rejected("circuit_breaker", "circuit_open", 90)];
            let mut breaker = breaker("half_open", 1.0);
            (breaker.probes_passed, breaker.probes_failed) = (1, 0);
            it.breaker = Some(breaker);
        }),
        Them,
        Warning,
        "Recovering: the circuit is half-open and admits only probes. 1 passed and 0 failed in 10 \
         s. 9 calls/s are rejected.",
    )]);
}

#[test]
fn numbers_that_contradict_each_other_have_a_sentence() {
    // All fields at extremes, as a reading during changes of the layers may have them.
    let counts = [0, 1, u64::MAX / 4];
    let seconds = [0.0, 1e-9, 1.0, f64::INFINITY, f64::NAN];
    let states = ["closed", "open", "half_open", "forced_open", "disabled", "new", ""];
    for (many, seconds) in counts.into_iter().flat_map(|it| seconds.map(|seconds| (it, seconds))) {
        for state in states {
            let snapshot = of(seconds, |it| {
                it.active = Some(many);
                it.calls = Some(timed([many, 0, many, many], seconds, 0.0, seconds));
                it.attempts = Some(timed([0, many, many, 0], 0.0, seconds, 1.0));
                it.breaker = Some(breaker(state, seconds));
                it.bulkhead = Some(bulkhead(many, 0, many));
                it.retry = Some(retry(many, many, &[cause("budget", many)]));
                it.attempt_limit = Some(seconds);
                it.rejections = vec![
                    rejected("attempt_timeout", "timed_out", many),
                    rejected("total_timeout", "timed_out", many),
                    rejected("bulkhead", "bulkhead_full", many),
                ];
            });
            assert!(diagnose(&snapshot).sentence.ends_with('.'));
        }
    }
    assert_eq!(diagnose(&Snapshot::default()).whose, Nobody);
}
