use std::{sync::atomic::AtomicU32, thread};

use proptest::prelude::*;

use super::*;

/// Pays in for a call, and takes out up to `wanted` retries; how many it got.
fn call(budget: &Budget, wanted: u32) -> u32 {
    budget.deposit();
    let mut got = 0;
    for _ in 0..wanted {
        let Some(mut withdrawal) = budget.withdraw() else { break };
        withdrawal.finish(|_| ());
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
        let budget = Budget::new(ratio, floor).unwrap();
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
        let budget = Budget::new(ratio, floor).unwrap();
        let (mut calls, mut retries) = (0_u32, 0_u32);
        for (wanted, sent) in steps {
            calls += 1;
            budget.deposit();
            let withdrawals: Vec<_> = (0..wanted).filter_map(|_| budget.withdraw()).collect();
            if sent {
                for mut withdrawal in withdrawals {
                    withdrawal.finish(|_| ());
                    retries += 1;
                }
            }
            prop_assert!(f64::from(retries) <= ratio * f64::from(calls) + f64::from(floor) + 1e-6);
        }
    }
}

#[test]
fn the_bound_holds_across_threads() {
    for ratio in [0.01, 0.1, 0.3, 0.6, 0.9, 1.0, 1.7, 2.0] {
        let budget = Budget::new(ratio, 10).unwrap();
        let retries = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for number in 0..2_000 {
                        if number % 7 == 0 {
                            // Taken out, and never sent.
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
fn a_refund_is_what_was_taken() {
    let budget = Budget::new(0.0, 5).unwrap();
    let mut sent = budget.withdraw().unwrap();
    sent.finish(|_| ());
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
    let budget = Budget::new(0.0, 0).unwrap();
    assert_eq!((0..1_000).map(|_| call(&budget, 1)).sum::<u32>(), 0);
    let budget = Budget::new(0.0, 3).unwrap();
    assert_eq!((0..1_000).map(|_| call(&budget, 1)).sum::<u32>(), 3);
}

#[test]
fn no_more_than_the_floor_is_saved_up() {
    let budget = Budget::new(0.5, 4).unwrap();
    for _ in 0..1_000_000 {
        budget.deposit();
    }
    assert_eq!(call(&budget, 100), 4);
}

#[test]
fn bad_ratios_cannot_be_built() {
    for ratio in [-0.1, 10.1, f64::NAN, f64::INFINITY] {
        assert_eq!(Budget::new(ratio, 1).unwrap_err().knob(), "ratio");
    }
}
