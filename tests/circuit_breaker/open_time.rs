//! Tests of the open time.

use std::time::Duration;

use buttress::{
    CarryRejection, Classify, Error, Fault, Outcome, RetryHint,
    circuit_breaker::{CircuitBreakerBuilder, CircuitBreakerLayer, State},
    testing::Step,
};
use tokio::time::advance;
use tower::{Layer, Service};

use super::{Answer, DOWN, MS, OPEN_FOR, Rig, SECOND, WELL, ten_calls};

impl<S> Rig<S>
where
    S: Service<(), Response = &'static str, Error = Error<&'static str>> + Clone,
{
    fn left(&self) -> Duration {
        self.seen().retry_after().unwrap()
    }

    /// Lets the open time pass, and makes a probe fail.
    async fn reopen(&self) {
        advance(self.left()).await;
        self.answer(DOWN).await;
        assert_eq!(self.state(), State::Open);
    }

    /// Lets the open time pass, and makes a probe succeed.
    async fn close(&self) {
        advance(self.left()).await;
        self.answer(WELL).await;
        assert_eq!(self.state(), State::Closed);
    }
}

#[tokio::test(start_paused = true)]
async fn the_open_time_grows_with_each_trip_and_is_capped() {
    let rig = Rig::new(ten_calls().probes(1));
    rig.trip().await;
    for seconds in [30, 60, 120, 240, 300, 300, 300] {
        assert_eq!(rig.left(), SECOND * seconds);
        rig.reopen().await;
    }
    for _ in 0..2_000 {
        rig.reopen().await;
    }
    assert_eq!(rig.left(), SECOND * 300);
}

#[tokio::test(start_paused = true)]
async fn the_growth_is_configurable() {
    for (growth, second) in [(1.0, 10), (1.5, 15), (10.0, 60), (f64::MAX, 60)] {
        let builder = ten_calls().probes(1).open_growth(growth);
        let rig = Rig::new(builder.open_for(SECOND * 10).max_open_for(SECOND * 60));
        rig.trip().await;
        assert_eq!(rig.left(), SECOND * 10);
        rig.reopen().await;
        assert_eq!(rig.left(), SECOND * second, "{growth}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_breaker_that_trips_right_after_it_closed_goes_on_growing() {
    let rig = Rig::new(ten_calls().probes(1));
    rig.trip().await;
    for seconds in [30, 60, 120] {
        assert_eq!(rig.left(), SECOND * seconds);
        rig.close().await;
        advance(SECOND * seconds - MS).await;
        rig.trip().await;
    }
}

#[tokio::test(start_paused = true)]
async fn health_as_long_as_the_last_open_time_begins_the_growth_anew() {
    let rig = Rig::new(ten_calls().probes(1));
    rig.trip().await;
    rig.reopen().await;
    assert_eq!(rig.left(), SECOND * 60);
    rig.close().await;
    advance(SECOND * 60).await;
    rig.trip().await;
    assert_eq!(rig.left(), SECOND * 30);
}

#[tokio::test(start_paused = true)]
async fn the_open_time_is_jittered_upwards_only_and_differs_from_trip_to_trip() {
    let mut times = Vec::new();
    for _ in 0..500 {
        let rig = Rig::new(ten_calls().open_jitter(0.5));
        rig.trip().await;
        times.push(rig.left());
    }
    assert!(times.iter().all(|time| (OPEN_FOR..=OPEN_FOR * 3 / 2).contains(time)), "{times:?}");
    let mean = times.iter().sum::<Duration>() / 500;
    assert!((SECOND * 36..SECOND * 39).contains(&mean), "{mean:?}");
    times.sort();
    times.dedup();
    assert!(times.len() >= 490, "{} of 500 open times are different", times.len());
}

#[tokio::test(start_paused = true)]
async fn the_jitter_is_not_lost_at_the_cap() {
    let mut times = Vec::new();
    for _ in 0..50 {
        let rig = Rig::new(ten_calls().open_jitter(0.1).max_open_for(OPEN_FOR));
        rig.trip().await;
        times.push(rig.left());
    }
    assert!(times.iter().all(|time| (OPEN_FOR..=SECOND * 33).contains(time)), "{times:?}");
    times.sort();
    times.dedup();
    assert!(times.len() >= 49, "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn the_jitter_of_a_probe_is_never_early() {
    for _ in 0..50 {
        let rig = Rig::new(ten_calls().open_jitter(1.0));
        rig.trip().await;
        let left = rig.left();
        advance(left - Duration::from_nanos(1)).await;
        rig.rejected().await;
        advance(Duration::from_nanos(1)).await;
        rig.answer(WELL).await;
    }
}

/// The way in which the service says when to retry.
#[derive(Clone, Copy, Debug)]
enum Asks {
    InTheFault(Duration),
    InTheHint(Duration),
}

impl Classify<&'static str, Error<&'static str>> for Asks {
    fn classify(&self, result: Result<&&'static str, &Error<&'static str>>) -> Outcome {
        let fault = match self {
            Self::InTheFault(time) => Fault::Overloaded { retry_after: Some(*time) },
            Self::InTheHint(_) => Fault::Transient,
        };
        if result.is_ok() { Outcome::Success } else { Outcome::Failure(fault) }
    }

    fn hint(&self, _: Result<&&'static str, &Error<&'static str>>) -> RetryHint {
        match self {
            Self::InTheFault(_) => RetryHint::Unstated,
            Self::InTheHint(time) => RetryHint::After(*time),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_hint_lengthens_the_open_time_within_its_cap() {
    let asked = [0, 1, 29, 31, 100, 300, 301, 1_000_000];
    for seconds in asked.map(Duration::from_secs).into_iter().chain([Duration::MAX]) {
        // That of an overload shortens it too, to a second at least.
        for (asks, least) in
            [(Asks::InTheFault(seconds), SECOND), (Asks::InTheHint(seconds), OPEN_FOR)]
        {
            let layer = ten_calls().classify(asks).build().unwrap();
            let rig = Rig::of(layer.handle(), |inner| layer.layer(inner));
            rig.trip().await;
            let expected = seconds.clamp(least, SECOND * 300);
            assert_eq!(rig.seen().retry_after(), Some(expected), "{asks:?}");
        }
    }
}

/// Classifies failures by their text: an overload that names so many seconds, or an outage.
struct ByText;

impl Classify<&'static str, Error<&'static str>> for ByText {
    fn classify(&self, result: Result<&&'static str, &Error<&'static str>>) -> Outcome {
        let Err(Error::Service(text)) = result else { return Outcome::Success };
        Outcome::Failure(match text.strip_prefix("busy ") {
            Some(seconds) => {
                Fault::Overloaded { retry_after: seconds.parse().ok().map(Duration::from_secs) }
            }
            None => Fault::Transient,
        })
    }
}

const BUSY_0: Answer = Err(Error::Service("busy 0"));
const BUSY_7: Answer = Err(Error::Service("busy 7"));
/// An overload that names no time.
const BUSY: Answer = Err(Error::Service("busy for some time"));

/// A breaker in front of a service that may be overloaded.
macro_rules! limited {
    ($builder:expr) => {{
        let layer = $builder.classify(ByText).build().unwrap();
        Rig::of(layer.handle(), |inner| layer.layer(inner))
    }};
}

#[tokio::test(start_paused = true)]
async fn a_trip_of_overloads_that_name_a_time_opens_for_that_time() {
    fn any() -> CircuitBreakerBuilder {
        CircuitBreakerLayer::builder().open_jitter(0.0)
    }
    let by_time = || any().minimum_calls(10);
    let in_a_row = || any().without_failure_rate().consecutive_failures(10);
    let builders: [fn() -> CircuitBreakerBuilder; 3] = [ten_calls, by_time, in_a_row];
    for builder in builders {
        let rig = limited!(builder());
        rig.answers(10, BUSY_7).await;
        assert_eq!((rig.state(), rig.left()), (State::Open, SECOND * 7));
        // So do probes.
        for _ in 0..3 {
            advance(rig.left()).await;
            rig.answers(2, BUSY_7).await;
            assert_eq!((rig.state(), rig.left()), (State::Open, SECOND * 7));
        }
    }
    // The last call may be a success.
    let rig = limited!(ten_calls().failure_rate(0.9));
    rig.answers(9, BUSY_7).await;
    rig.answer(WELL).await;
    assert_eq!((rig.state(), rig.left()), (State::Open, SECOND * 7));
}

#[tokio::test(start_paused = true)]
async fn only_if_most_of_the_failures_of_a_trip_are_overloads_it_opens_for_their_time() {
    for other in [DOWN, BUSY] {
        for others in 0..=10 {
            for overloads_first in [false, true] {
                let rig = limited!(ten_calls());
                if overloads_first {
                    rig.answers(10 - others, BUSY_7).await;
                }
                rig.answers(others, other.clone()).await;
                if !overloads_first {
                    rig.answers(10 - others, BUSY_7).await;
                }
                let expected = if others < 5 { SECOND * 7 } else { OPEN_FOR };
                assert_eq!(rig.left(), expected, "{others} {other:?}, {overloads_first}");
            }
        }
        // Those that have left the window are none of its failures.
        let rig = limited!(ten_calls());
        rig.answers(4, other.clone()).await;
        rig.answers(10, WELL).await;
        rig.answers(5, BUSY_7).await;
        assert_eq!((rig.state(), rig.left()), (State::Open, SECOND * 7));
        // Of two failed probes, one is not most.
        advance(rig.left()).await;
        rig.answer(BUSY_7).await;
        rig.answer(other).await;
        assert_eq!((rig.state(), rig.left()), (State::Open, OPEN_FOR));
    }
}

#[tokio::test(start_paused = true)]
async fn probes_that_fail_five_times_after_the_named_time_lengthen_it_up_to_open_for() {
    let rig = limited!(ten_calls());
    rig.answers(10, BUSY_0).await;
    for seconds in [1, 1, 1, 1, 1, 2, 4, 8, 16, 30, 30, 30] {
        assert_eq!((rig.state(), rig.left()), (State::Open, SECOND * seconds));
        advance(rig.left()).await;
        rig.answers(2, BUSY_0).await;
    }
    // Even if the time of outages does not grow.
    let rig = limited!(ten_calls().open_growth(1.0));
    rig.answers(10, BUSY_0).await;
    for seconds in [1, 1, 1, 1, 1, 2, 4, 8, 16, 30, 30] {
        assert_eq!(rig.left(), SECOND * seconds);
        advance(rig.left()).await;
        rig.answers(2, BUSY_0).await;
    }
    // A short `open_for` bounds it too.
    let rig = limited!(ten_calls().open_for(MS * 100));
    rig.answers(10, BUSY_0).await;
    assert_eq!(rig.left(), MS * 100);
}

#[tokio::test(start_paused = true)]
async fn a_named_time_after_which_probes_pass_is_kept_however_often_the_caller_exceeds_its_rate() {
    let rig = limited!(ten_calls().probes(1));
    for _ in 0..50 {
        rig.answers(10, BUSY_0).await;
        assert_eq!(rig.left(), SECOND);
        rig.close().await;
    }
    // Probes that pass end a row of those that failed.
    for _ in 0..3 {
        rig.answers(10, BUSY_0).await;
        for seconds in [1, 1, 1, 1, 1, 2, 4] {
            assert_eq!(rig.left(), SECOND * seconds);
            advance(rig.left()).await;
            rig.answer(BUSY_0).await;
        }
        rig.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_row_of_outages_ends_after_a_time_without_them_even_if_overloads_are_frequent() {
    let rig = limited!(ten_calls().probes(1));
    rig.answers(10, DOWN).await;
    rig.reopen().await;
    assert_eq!(rig.left(), SECOND * 60);
    rig.close().await;
    for _ in 0..4 {
        advance(SECOND * 20).await;
        rig.answers(10, BUSY_0).await;
        rig.close().await;
    }
    rig.answers(10, DOWN).await;
    assert_eq!(rig.left(), OPEN_FOR);
    // An overload that ends an outage does not end the row.
    advance(rig.left()).await;
    rig.answer(BUSY_0).await;
    rig.close().await;
    rig.answers(10, DOWN).await;
    assert_eq!(rig.left(), SECOND * 60);
}

#[tokio::test(start_paused = true)]
async fn a_row_of_outages_neither_grows_nor_ends_with_an_overload() {
    let rig = limited!(ten_calls().probes(1));
    rig.answers(10, DOWN).await;
    rig.reopen().await;
    assert_eq!(rig.left(), SECOND * 60);
    // Twice an overload, between outages in a row.
    for _ in 0..2 {
        rig.close().await;
        rig.answers(10, BUSY_7).await;
        assert_eq!(rig.left(), SECOND * 7);
    }
    rig.close().await;
    advance(SECOND * 8).await;
    rig.answers(10, DOWN).await;
    assert_eq!(rig.left(), SECOND * 120);
    // After a time of health, outages begin anew, whatever the overloads in between.
    rig.close().await;
    advance(SECOND * 120).await;
    rig.answers(10, BUSY_7).await;
    advance(rig.left()).await;
    rig.answer(DOWN).await;
    assert_eq!(rig.left(), OPEN_FOR);
}

#[tokio::test(start_paused = true)]
async fn a_hint_of_a_failed_probe_lengthens_the_open_time_too() {
    let layer = ten_calls().probes(1).classify(Asks::InTheHint(SECOND * 200)).build().unwrap();
    let rig = Rig::of(layer.handle(), |inner| layer.layer(inner));
    rig.trip_and_wait().await;
    rig.answer(DOWN).await;
    assert_eq!(rig.seen().retry_after(), Some(SECOND * 200));
    // This does not count as another trip. The next trip is the third.
    advance(SECOND * 200).await;
    rig.inner.push(Step::PanicInPoll);
    assert!(tokio::spawn(tower::ServiceExt::oneshot(rig.service.clone(), ())).await.is_err());
    assert_eq!(rig.seen().retry_after(), Some(SECOND * 120));
}

#[tokio::test(start_paused = true)]
async fn a_rejection_says_when_to_come_back() {
    let rig = Rig::new(ten_calls().name("payments"));
    rig.trip().await;
    for elapsed in [0, 10, 29] {
        let error = rig.call().await.unwrap_err();
        let rejection = error.rejection().unwrap();
        assert_eq!(rejection.retry_after(), Some(OPEN_FOR - SECOND * elapsed));
        assert_eq!((rejection.name(), rejection.kind()), ("payments", "circuit_open"));
        advance(if elapsed == 0 { SECOND * 10 } else { SECOND * 19 }).await;
    }
}
