//! Compares buttress with other crates, in one run.
//!
//! `cargo run --release -p peers` drives every side through the same loop (`ready`, `call`,
//! await) over a service that responds at once, on one current-thread runtime, in rounds in which
//! the sides take turns. It prints:
//!
//! - `scale {json}`: the cost of a clock read, a timer, a permit and the like on this machine.
//! - `baseline {json}`: the bare service in the loop. It is part of every number and is not
//!   subtracted.
//! - `row {json}` for each case and peer: `ours_ns` and `peer_ns` are medians of the rounds.
//!   `ratio` is the median of the rounds' ratios, below 1 if buttress is cheaper. `ours_allocs`
//!   and `peer_allocs` are heap allocations per call.
//! - `growth {json}`: buttress's time window with 100,000 calls in it compared with 1,000.
//! - `keyed {json}`: the bytes of a key in a keyed breaker, and the cost of a call that looks one
//!   up.
//! - `waiters {json}`: the time in which callers that share a call get its response.
//! - The rows again as a table.
//!
//! With the name of a group as an argument, such as `-- degraded`, it measures only that group:
//! `layers`, `breakers`, `stacks`, `degraded`, `contended` or `keyed`.
//!
//! The `contended` cases report wall time divided by the calls of both threads. A peer that waits
//! for an asynchronous lock parks its thread, as in two busy current-thread runtimes.
//! `breaker_time_window` and `stack4_time_window` hold 100 to 200 calls in the window, like a
//! quiet service. This favours a peer that scans its window. `breaker_time_window_1k` and `_100k`
//! hold as many calls as their name says. Tower has no breaker, no fallback, no cache and no chaos,
//! and its balancer is not `Clone`. Its row for these is its `ConcurrencyLimit`.
//! `fallback` is a fallback that is not needed, and `fallback_used` a value.

mod alloc;
mod backend;
mod http;
mod keyed;
mod measure;
mod ours;
mod peers;
mod report;
mod scale;
mod waiters;

use backend::{Backend, Unavailable};
use measure::Expect::{Rejected, Served};
use measure::{Harness, interleave};
use peers::{
    LONG_WINDOW, TIME_WINDOW, failsafe, moka, recloser, seatbelt, tower_own, tower_resilience,
};
use report::Report;

/// The number of calls in the window of the time-window cases without a number in their name.
const QUIET: u64 = 100;
const BUSY: u64 = 1_000;
const CROWDED: u64 = 100_000;

/// Measures the rows of one group.
type Group = fn(&Harness, &mut Report);

fn main() {
    let h = &Harness::new();
    let only = std::env::args().nth(1);
    let runs = |group: &&str| only.as_deref().is_none_or(|only| only == *group);
    scale::print(h);
    let bare = interleave(&mut [h.looped(Served, Backend::<Unavailable>::new)]);
    println!(r#"baseline {{"ns":{:.1},"allocs":{:.2}}}"#, bare[0].nanos, bare[0].allocations);

    let mut report = Report::default();
    let groups: [(&str, Group); 6] = [
        ("layers", layers),
        ("breakers", breakers),
        ("stacks", stacks),
        ("degraded", degraded),
        ("contended", contended),
        ("keyed", |h, _| keyed::print(h)),
    ];
    for (_, group) in groups.iter().filter(|(name, _)| runs(name)) {
        group(h, &mut report);
    }
    report.table();
}

fn layers(h: &Harness, report: &mut Report) {
    report.case(
        "timeout",
        h.looped(Served, ours::timeout),
        vec![
            ("tower", h.looped(Served, tower_own::timeout)),
            ("tower-resilience", h.looped(Served, tower_resilience::timeout)),
            ("seatbelt", h.looped(Served, seatbelt::timeout)),
        ],
    );
    report.case(
        "retry",
        h.looped(Served, ours::retry),
        vec![
            ("tower", h.looped(Served, tower_own::retry)),
            ("tower-resilience", h.looped(Served, tower_resilience::retry)),
            ("seatbelt", h.looped(Served, seatbelt::retry)),
        ],
    );
    report.case(
        "bulkhead",
        h.looped(Served, ours::bulkhead),
        vec![
            ("tower", h.looped(Served, tower_own::concurrency_limit)),
            ("tower-resilience", h.looped(Served, tower_resilience::bulkhead)),
        ],
    );
}

fn breakers(h: &Harness, report: &mut Report) {
    report.case(
        "breaker",
        h.looped(Served, ours::breaker),
        vec![
            ("tower", h.looped(Served, tower_own::concurrency_limit)),
            ("tower-resilience", h.looped(Served, tower_resilience::breaker)),
            ("seatbelt", h.looped(Served, || seatbelt::breaker(TIME_WINDOW))),
            ("failsafe", h.looped(Served, failsafe::breaker)),
            ("recloser", h.looped(Served, recloser::breaker)),
        ],
    );
    report.case(
        "breaker_open",
        h.looped(Rejected, || ours::breaker_open(h)),
        vec![
            ("tower-resilience", h.looped(Rejected, || tower_resilience::breaker_open(h))),
            ("seatbelt", h.looped(Rejected, || seatbelt::breaker_open(h, TIME_WINDOW))),
            ("failsafe", h.looped(Rejected, || failsafe::breaker_open(h))),
            ("recloser", h.looped(Rejected, || recloser::breaker_open(h))),
        ],
    );
    report.case(
        "breaker_time_window",
        h.in_window(QUIET, || ours::breaker_time_window(TIME_WINDOW)),
        vec![
            ("tower", h.in_window(QUIET, tower_own::concurrency_limit)),
            (
                "tower-resilience",
                h.in_window(QUIET, || tower_resilience::breaker_time_window(TIME_WINDOW)),
            ),
            ("seatbelt", h.in_window(QUIET, || seatbelt::breaker(TIME_WINDOW))),
            ("failsafe", h.in_window(QUIET, || failsafe::breaker_time_window(TIME_WINDOW))),
        ],
    );
    for (case, calls) in [("breaker_time_window_1k", BUSY), ("breaker_time_window_100k", CROWDED)] {
        report.case(
            case,
            h.in_window(calls, || ours::breaker_time_window(LONG_WINDOW)),
            vec![
                (
                    "tower-resilience",
                    h.in_window(calls, || tower_resilience::breaker_time_window(LONG_WINDOW)),
                ),
                ("seatbelt", h.in_window(calls, || seatbelt::breaker(LONG_WINDOW))),
                ("failsafe", h.in_window(calls, || failsafe::breaker_time_window(LONG_WINDOW))),
            ],
        );
    }
    report::growth(&interleave(&mut [
        h.in_window(CROWDED, || ours::breaker_time_window(LONG_WINDOW)),
        h.in_window(BUSY, || ours::breaker_time_window(LONG_WINDOW)),
    ]));
}

fn stacks(h: &Harness, report: &mut Report) {
    report.case(
        "stack4",
        h.looped(Served, ours::stack4),
        vec![("tower-resilience", h.looped(Served, tower_resilience::stack4))],
    );
    report.case(
        "stack4_time_window",
        h.in_window(QUIET, ours::stack4_time_window),
        vec![("tower-resilience", h.in_window(QUIET, tower_resilience::stack4_time_window))],
    );
    report.case(
        "stack4_rejected",
        h.looped(Rejected, || ours::stack4_rejected(h)),
        vec![("tower-resilience", h.looped(Rejected, || tower_resilience::stack4_rejected(h)))],
    );
}

/// Measures the layers that give a response when the service cannot, and those around them.
fn degraded(h: &Harness, report: &mut Report) {
    let unit = || ("tower", h.looped(Served, tower_own::concurrency_limit));
    report.case(
        "fallback",
        h.looped(Served, ours::fallback),
        vec![unit(), ("tower-resilience", h.looped(Served, tower_resilience::fallback))],
    );
    report.case(
        "fallback_used",
        h.looped(Served, ours::fallback_used),
        vec![unit(), ("tower-resilience", h.looped(Served, tower_resilience::fallback_used))],
    );
    report.case(
        "cache_hit",
        h.looped(Served, ours::cache),
        vec![
            unit(),
            ("tower-resilience", h.looped(Served, tower_resilience::cache)),
            ("moka", h.looped(Served, moka::cache)),
        ],
    );
    report.case(
        "http_cache_hit",
        h.looped(Served, http::cached),
        vec![("the response copied", h.looped(Served, http::copied))],
    );
    report.case("endpoints_10", h.looped(Served, || ours::endpoints(10)), vec![unit()]);
    report.case(
        "endpoints_1000",
        h.looped(Served, || ours::endpoints(1_000)),
        vec![unit(), ("10 endpoints", h.looped(Served, || ours::endpoints(10)))],
    );
    report.case(
        "chaos_disarmed",
        h.looped(Served, ours::chaos_disarmed),
        vec![unit(), ("no layer", h.looped(Served, Backend::<Unavailable>::new))],
    );
    waiters::print(h);
}

fn contended(h: &Harness, report: &mut Report) {
    report.case(
        "contended_breaker",
        h.contended(ours::breaker),
        vec![
            ("tower", h.contended(tower_own::concurrency_limit)),
            ("tower-resilience", h.contended(tower_resilience::breaker)),
            ("seatbelt", h.contended(|| seatbelt::breaker(TIME_WINDOW))),
            ("failsafe", h.contended(failsafe::breaker)),
            ("recloser", h.contended(recloser::breaker)),
        ],
    );
    report.case(
        "contended_breaker_time_window",
        h.contended(|| ours::breaker_time_window(TIME_WINDOW)),
        vec![
            ("tower", h.contended(tower_own::concurrency_limit)),
            (
                "tower-resilience",
                h.contended(|| tower_resilience::breaker_time_window(TIME_WINDOW)),
            ),
            ("seatbelt", h.contended(|| seatbelt::breaker(TIME_WINDOW))),
            ("failsafe", h.contended(|| failsafe::breaker_time_window(TIME_WINDOW))),
        ],
    );
    report.case(
        "contended_bulkhead",
        h.contended(ours::bulkhead),
        vec![
            ("tower", h.contended(tower_own::concurrency_limit)),
            ("tower-resilience", h.contended(tower_resilience::bulkhead)),
        ],
    );
}
