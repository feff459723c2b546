use rand::{SeedableRng, rngs::SmallRng};

use super::*;

const MILLI: Duration = Duration::from_millis(1);

fn rng() -> SmallRng {
    SmallRng::seed_from_u64(7)
}

fn every_kind() -> Vec<Backoff> {
    let mut backoffs = Vec::new();
    for jitter in [Jitter::None, Jitter::Full, Jitter::Equal, Jitter::Decorrelated] {
        for builder in [
            Backoff::linear(MILLI * 50),
            Backoff::exponential(MILLI * 50),
            Backoff::exponential(Duration::MAX / 2).cap(Duration::MAX),
            Backoff::linear(Duration::from_nanos(1)).cap(Duration::MAX),
        ] {
            backoffs.push(builder.jitter(jitter).build().unwrap());
        }
    }
    for jitter in [Jitter::None, Jitter::Full, Jitter::Equal] {
        for builder in [
            Backoff::constant(MILLI * 50),
            Backoff::exponential(MILLI * 50).factor(1.0),
            Backoff::exponential(Duration::MAX),
        ] {
            backoffs.push(builder.jitter(jitter).build().unwrap());
        }
    }
    let wandering = Backoff::constant(MILLI * 50).cap(MILLI * 200).jitter(Jitter::Decorrelated);
    backoffs.push(wandering.build().unwrap());
    backoffs
}

/// Returns the mean and the standard deviation of many first delays, as shares of `most`.
fn spread(backoff: Backoff, most: Duration) -> (f64, f64) {
    let mut rng = rng();
    let draws: Vec<f64> = (0..20_000)
        .map(|_| backoff.delay(1, Duration::ZERO, &mut rng).as_secs_f64() / most.as_secs_f64())
        .collect();
    let mean = draws.iter().sum::<f64>() / draws.len() as f64;
    let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
    (mean, variance.sqrt())
}

fn close(left: (f64, f64), right: (f64, f64)) -> bool {
    (left.0 - right.0).abs() < 0.01 && (left.1 - right.1).abs() < 0.01
}

#[test]
fn each_growth_is_what_it_says() {
    let ceilings = |builder: BackoffBuilder| {
        let backoff = builder.jitter(Jitter::None).build().unwrap();
        (1..=6).map(|n| backoff.ceiling(n).as_millis()).collect::<Vec<_>>()
    };
    assert_eq!(ceilings(Backoff::constant(MILLI * 50)), [50; 6]);
    assert_eq!(ceilings(Backoff::linear(MILLI * 300)), [300, 600, 900, 1_000, 1_000, 1_000]);
    assert_eq!(ceilings(Backoff::exponential(MILLI * 50)), [50, 100, 200, 400, 800, 1_000]);
    let slower = Backoff::exponential(MILLI * 100).factor(1.5).cap(MILLI * 300);
    assert_eq!(ceilings(slower), [100, 150, 225, 300, 300, 300]);
}

#[test]
fn no_delay_is_longer_than_the_cap_or_than_is_foretold() {
    let mut rng = rng();
    for backoff in every_kind() {
        for _ in 0..50 {
            let mut previous = Duration::ZERO;
            for number in (1..=40).chain([1_000, u32::MAX]) {
                let delay = backoff.delay(number, previous, &mut rng);
                assert!(delay <= backoff.cap, "{backoff:?} {number}: {delay:?}");
                assert!(delay <= backoff.longest(number), "{backoff:?} {number}: {delay:?}");
                previous = delay;
            }
        }
    }
}

#[test]
fn each_jitter_spreads_as_its_formula_says() {
    let second = Duration::from_secs(1);
    let of = |jitter| Backoff::constant(second).jitter(jitter).build().unwrap();
    let uniform = 1.0 / 12_f64.sqrt();
    assert!(close(spread(of(Jitter::None), second), (1.0, 0.0)));
    assert!(close(spread(of(Jitter::Full), second), (0.5, uniform)));
    assert!(close(spread(of(Jitter::Equal), second), (0.75, uniform / 2.0)));
    let decorrelated = Backoff::exponential(second).cap(second * 9).jitter(Jitter::Decorrelated);
    assert!(close(
        spread(decorrelated.build().unwrap(), second * 3),
        (2.0 / 3.0, uniform * 2.0 / 3.0)
    ));
}

#[test]
fn decorrelated_delays_stay_between_the_base_and_three_times_the_last() {
    let backoff = Backoff::exponential(MILLI * 50)
        .cap(Duration::from_secs(2))
        .jitter(Jitter::Decorrelated)
        .build()
        .unwrap();
    let mut rng = rng();
    for _ in 0..200 {
        let mut previous = Duration::ZERO;
        for number in 1..20 {
            let delay = backoff.delay(number, previous, &mut rng);
            let most = previous.max(MILLI * 50) * 3;
            assert!(delay >= MILLI * 50 && delay <= most.min(backoff.cap));
            previous = delay;
        }
    }
}

#[test]
fn draws_differ_to_the_nanosecond_the_cap_included() {
    let mut rng = rng();
    // Includes whole seconds, because some libraries round delays to them.
    for base in [MILLI, MILLI * 50, Duration::from_secs(1), Duration::from_secs(3_600)] {
        for jitter in [Jitter::Full, Jitter::Equal, Jitter::Decorrelated] {
            let backoff = Backoff::exponential(base).cap(base * 4).jitter(jitter).build().unwrap();
            let mut previous = vec![Duration::ZERO; 200];
            for number in 1..=8 {
                for delay in &mut previous {
                    *delay = backoff.delay(number, *delay, &mut rng);
                }
                let distinct: std::collections::BTreeSet<_> = previous.iter().collect();
                assert!(distinct.len() >= 199, "{backoff:?} {number}: {}", distinct.len());
            }
        }
    }
}

#[test]
fn both_ends_of_a_range_may_be_the_same_or_the_furthest() {
    let mut rng = rng();
    for (least, most) in [
        (Duration::ZERO, Duration::ZERO),
        (MILLI, MILLI),
        (Duration::ZERO, Duration::MAX),
        (Duration::MAX, Duration::MAX),
        (Duration::ZERO, Duration::from_nanos(1)),
    ] {
        for _ in 0..1_000 {
            let drawn = between(least, most, &mut rng);
            assert!(least <= drawn && drawn <= most);
        }
    }
}

#[test]
fn a_base_beyond_the_usual_cap_brings_its_own() {
    assert_eq!(Backoff::exponential(MILLI * 5_000).build().unwrap().cap(), MILLI * 5_000);
}
