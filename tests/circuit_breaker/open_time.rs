//! Tests of the open time.

use std::time::Duration;

use buttress::{
    CarryRejection, Classify, Error, Fault, Outcome, RetryHint, circuit_breaker::State,
    testing::Step,
};
use tokio::time::advance;
use tower::Layer;

use super::{DOWN, MS, OPEN_FOR, Rig, SECOND, WELL, ten_calls};

impl Rig {
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
        for asks in [Asks::InTheFault(seconds), Asks::InTheHint(seconds)] {
            let layer = ten_calls().classify(asks).build().unwrap();
            let rig = Rig::of(layer.handle(), |inner| layer.layer(inner));
            rig.trip().await;
            let expected = seconds.clamp(OPEN_FOR, SECOND * 300);
            assert_eq!(rig.seen().retry_after(), Some(expected), "{asks:?}");
        }
    }
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
