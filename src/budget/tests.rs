use std::{
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::{Fault, call::clock};

const MINUTE: Duration = Duration::from_secs(60);

/// Pays in for a call and takes out up to `wanted` retries. Returns the number taken out.
fn call(budget: &Budget, wanted: u32) -> u32 {
    budget.deposit();
    let mut got = 0;
    for _ in 0..wanted {
        let Some(mut withdrawal) = budget.withdraw() else { break };
        withdrawal.take();
        got += 1;
    }
    got
}

proptest! {
    #[test]
    fn retries_never_exceed_the_ratio_and_the_floor(
        ratio in 0.01..2.0_f64,
        floor in 0..20_u32,
        wanted in prop::collection::vec(0..6_u32, 1..400),
    ) {
        let budget = Budget::builder().ratio(ratio).floor(floor).build().unwrap();
        let (mut calls, mut retries) = (0_u32, 0_u32);
        for wanted in wanted {
            calls += 1;
            retries += call(&budget, wanted);
            prop_assert!(f64::from(retries) <= ratio * f64::from(calls) + f64::from(floor) + 1e-6);
        }
    }

    #[test]
    fn what_is_not_sent_is_paid_back_and_never_more(
        ratio in 0.01..2.0_f64,
        floor in 0..20_u32,
        steps in prop::collection::vec((0..3_u32, any::<bool>()), 1..400),
    ) {
        let budget = Budget::builder().ratio(ratio).floor(floor).build().unwrap();
        let (mut calls, mut retries) = (0_u32, 0_u32);
        for (wanted, sent) in steps {
            calls += 1;
            budget.deposit();
            let withdrawals: Vec<_> = (0..wanted).filter_map(|_| budget.withdraw()).collect();
            if sent {
                for mut withdrawal in withdrawals {
                    withdrawal.take();
                    retries += 1;
                }
            }
            prop_assert!(f64::from(retries) <= ratio * f64::from(calls) + f64::from(floor) + 1e-6);
        }
    }
}

proptest! {
    #[test]
    fn retries_never_exceed_the_ratio_the_floor_and_a_minute_each(
        ratio in prop_oneof![Just(0.0), 0.01..2.0_f64],
        floor in 0..20_u32,
        steps in prop::collection::vec((0..6_u32, any::<bool>(), 0..200_u64), 1..200),
    ) {
        let origin = Instant::now();
        let frozen = clock::share_now(origin);
        let budget = Budget::builder().ratio(ratio).floor(floor).build().unwrap();
        drop(frozen);
        let (mut now, mut taken) = (origin, vec![]);
        for (wanted, sent, pause) in steps {
            now += Duration::from_secs(pause);
            let _frozen = clock::share_now(now);
            if sent {
                taken.push((now, call(&budget, wanted)));
            } else {
                budget.deposit();
                drop((0..wanted).map(|_| budget.withdraw()).collect::<Vec<_>>());
                taken.push((now, 0));
            }
        }
        // In every period, not only in one from the start.
        for begin in 0..taken.len() {
            let mut retries = 0;
            for (calls, (end, more)) in taken[begin..].iter().enumerate() {
                retries += more;
                let minutes = (*end - taken[begin].0).as_secs_f64() / 60.0;
                let time = if floor > 0 { minutes } else { 0.0 };
                // Without a floor, calls save up what one retry needs.
                let saved = f64::from(floor).max(if ratio > 0.0 { 1.0 + ratio } else { 0.0 });
                let saved = if begin == 0 { f64::from(floor) } else { saved };
                let most = ratio * (calls + 1) as f64 + saved + time;
                prop_assert!(f64::from(retries) <= most + 1e-6, "{} of {}", retries, most);
            }
        }
    }
}

#[test]
fn an_empty_budget_regains_a_retry_a_minute_up_to_the_floor() {
    let origin = Instant::now();
    let frozen = clock::share_now(origin);
    let budget = Budget::builder().ratio(0.0).floor(3).build().unwrap();
    drop(frozen);
    let after = |time: Duration| {
        let _frozen = clock::share_now(origin + time);
        call(&budget, 100)
    };
    // Time with a balance pays in nothing.
    let year = MINUTE * 60 * 24 * 365;
    assert_eq!(after(year), 3);
    assert_eq!(after(year + MINUTE - Duration::from_nanos(1)), 0);
    assert_eq!(after(year + MINUTE), 1);
    assert_eq!(after(year + MINUTE * 3), 2);
    assert_eq!(after(year * 2), 3);
    assert_eq!(after(year * 2), 0);
}

#[test]
fn neither_a_throttle_nor_a_budget_without_a_floor_regains_anything_with_time() {
    let throttle = Budget::throttle().max_tokens(2).build().unwrap();
    throttle.failed();
    let nothing = Budget::builder().floor(0).build().unwrap();
    for budget in [throttle, nothing] {
        assert!(budget.withdraw().is_none());
        let _later = clock::share_now(Instant::now() + MINUTE * 1_000);
        assert!(budget.withdraw().is_none() && budget.withdraw().is_none());
    }
}

/// An event that can change the balance of a throttle.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// An outcome that shows that the service responds.
    Response(Outcome),
    Failure,
    /// An outcome that does not change the balance.
    Neither(Outcome),
    /// A retry is requested. `true` if it is also sent.
    Retry(bool),
    Call,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => Just(Event::Response(Outcome::Success)),
        3 => Just(Event::Failure),
        1 => Just(Event::Neither(Outcome::Ignored)),
        1 => Just(Event::Response(Outcome::Failure(Fault::Permanent))),
        1 => Just(Event::Response(Outcome::Failure(Fault::InProgress { retry_after: None }))),
        2 => any::<bool>().prop_map(Event::Retry),
        1 => Just(Event::Call),
    ]
}

proptest! {
    #[test]
    fn a_throttle_stays_between_nothing_and_its_most_and_retries_above_half_of_it(
        max_tokens in 1..40_u32,
        ratio in 0.001..3.0_f64,
        events in prop::collection::vec(event(), 1..400),
    ) {
        let budget = Budget::throttle().max_tokens(max_tokens).token_ratio(ratio).build().unwrap();
        let most = f64::from(max_tokens);
        let mut tokens = most;
        for event in events {
            match event {
                Event::Response(outcome) => {
                    budget.observe(outcome);
                    tokens = most.min(tokens + budget.ratio());
                }
                Event::Failure => {
                    budget.observe(Outcome::Failure(Fault::TimedOut));
                    tokens = (tokens - 1.0).max(0.0);
                }
                Event::Neither(outcome) => budget.observe(outcome),
                Event::Call => budget.deposit(),
                Event::Retry(sent) => {
                    let withdrawal = budget.withdraw();
                    // This close to half of the tokens, the model's sums may round to the other
                    // side.
                    if (tokens - most / 2.0).abs() > 1e-7 {
                        prop_assert_eq!(withdrawal.is_some(), tokens > most / 2.0);
                    }
                    if let Some(mut withdrawal) = withdrawal.filter(|_| sent) {
                        withdrawal.take();
                    }
                }
            }
            prop_assert!((0.0..=most).contains(&budget.balance()));
            prop_assert!((budget.balance() - tokens).abs() < 1e-6, "{}", tokens);
        }
    }

    #[test]
    fn a_throttle_recovers_from_any_number_of_failures(
        max_tokens in 1..1_001_u32,
        ratio in 0.01..10.0_f64,
        failures in 0..2_000_u32,
    ) {
        let budget = Budget::throttle().max_tokens(max_tokens).token_ratio(ratio).build().unwrap();
        for _ in 0..failures {
            budget.failed();
        }
        let most = f64::from(max_tokens);
        let left = (most - f64::from(failures)).max(0.0);
        prop_assert_eq!(budget.withdraw().is_some(), left > most / 2.0);
        // This many successes restore more than half of the tokens, however few were left.
        let needed = (most / 2.0 / budget.ratio()).floor() + 1.0;
        for _ in 0..needed as u32 {
            budget.observe(Outcome::Success);
        }
        prop_assert!(budget.withdraw().is_some());
    }
}

#[test]
fn a_throttle_counts_every_failure_of_every_thread() {
    let budget = Budget::throttle().max_tokens(1_000).token_ratio(1.0).build().unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..150).for_each(|_| budget.failed()));
        }
    });
    assert_eq!(budget.balance(), 400.0);
    assert!(budget.withdraw().is_none());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..50).for_each(|_| budget.observe(Outcome::Success)));
        }
    });
    assert_eq!(budget.balance(), 600.0);
    assert!(budget.withdraw().is_some());
}

#[test]
fn the_least_ratio_of_a_throttle_still_recovers() {
    let budget = Budget::throttle().max_tokens(1).token_ratio(0.000_001).build().unwrap();
    budget.failed();
    assert!(budget.withdraw().is_none());
    for _ in 0..=TOKEN / 2 {
        budget.observe(Outcome::Success);
    }
    assert!(budget.withdraw().is_some());
}

#[test]
fn the_bound_holds_across_threads() {
    for ratio in [0.01, 0.1, 0.3, 0.6, 0.9, 1.0, 1.7, 2.0] {
        let budget = Budget::builder().ratio(ratio).floor(10).build().unwrap();
        let retries = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for number in 0..2_000 {
                        if number % 7 == 0 {
                            // Takes out a token without sending the retry.
                            drop(budget.withdraw());
                        }
                        retries.fetch_add(call(&budget, 3), Ordering::Relaxed);
                    }
                });
            }
        });
        let retries = f64::from(retries.into_inner());
        assert!(retries <= ratio * 8_000.0 + 10.0 + 1e-6, "{ratio}: {retries}");
        assert!(retries >= ratio * 8_000.0 * 0.9, "{ratio}: {retries}");
    }
}

#[test]
fn time_before_the_balance_was_emptied_again_pays_in_nothing() {
    let origin = Instant::now();
    let _now = clock::share_now(origin);
    let refill = Refill::up_to(10 * TOKEN);
    // A thread empties the balance, and another one pays in and writes so first.
    refill.end();
    refill.begin();
    let _later = clock::share_now(origin + 5 * MINUTE);
    refill.begin();
    assert_eq!(refill.due(), 0);
    // A thread that empties the balance may read the clock long before it writes.
    let _before = clock::share_now(origin + 3 * MINUTE);
    refill.begin();
    let _after = clock::share_now(origin + 6 * MINUTE);
    assert_eq!(refill.due(), TOKEN);
}

#[test]
fn a_refund_is_what_was_taken() {
    let budget = Budget::builder().ratio(0.0).floor(5).build().unwrap();
    let mut sent = budget.withdraw().unwrap();
    sent.take();
    drop(sent);
    for _ in 0..100 {
        let (one, other) = (budget.withdraw(), budget.withdraw());
        assert!(one.is_some() && other.is_some());
        drop((one, other));
        assert_eq!(budget.bucket.balance.load(Ordering::Relaxed), 4 * TOKEN);
    }
}

#[test]
fn a_budget_of_nothing_gives_nothing() {
    let budget = Budget::builder().ratio(0.0).floor(0).build().unwrap();
    assert_eq!((0..1_000).map(|_| call(&budget, 1)).sum::<u32>(), 0);
    let budget = Budget::builder().ratio(0.0).floor(3).build().unwrap();
    assert_eq!((0..1_000).map(|_| call(&budget, 1)).sum::<u32>(), 3);
}

#[test]
fn no_more_than_the_floor_is_saved_up() {
    let budget = Budget::builder().ratio(0.5).floor(4).build().unwrap();
    for _ in 0..1_000_000 {
        budget.deposit();
    }
    assert_eq!(call(&budget, 100), 4);
}
