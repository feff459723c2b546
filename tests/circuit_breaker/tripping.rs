//! Tests of the conditions that open a closed breaker.

use std::{
    future::ready,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use buttress::{
    CarryRejection, Error, Fault, Outcome, Rejection,
    bulkhead::BulkheadLayer,
    circuit_breaker::{CircuitBreakerBuilder, CircuitBreakerLayer, State},
    error::{BulkheadFull, CircuitOpen, DeadlineExceeded, NotReady, QueueTimedOut, RateLimited},
    testing::Step,
    timeout::TimeoutLayer,
};
use futures::future::join_all;
use tokio::time::{advance, sleep};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::{Answer, DOWN, MS, OPEN_FOR, Rig, SECOND, WELL, is_rejected, ten_calls};

/// Returns the number of failures that a breaker admits after this number of successes.
async fn failures_admitted_after(successes: u64, builder: CircuitBreakerBuilder) -> u64 {
    let layer = builder.build().unwrap();
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let mut service = layer.layer(service_fn(move |answer: Answer| {
        counted.fetch_add(1, Ordering::Relaxed);
        ready(answer)
    }));
    for _ in 0..successes {
        service.ready().await.unwrap().call(WELL).await.unwrap();
    }
    for _ in 0..1_000 {
        if layer.handle().state() == State::Open {
            break;
        }
        service.ready().await.unwrap().call(DOWN).await.unwrap_err();
    }
    assert_eq!(layer.handle().state(), State::Open);
    calls.load(Ordering::Relaxed) - successes
}

#[tokio::test(start_paused = true)]
async fn count_window_slides() {
    let rig = Rig::new(ten_calls());
    rig.answers(10_000, WELL).await;
    assert_eq!(rig.window(), (10, 0, 0));
    rig.answers(4, DOWN).await;
    assert_eq!((rig.state(), rig.window()), (State::Closed, (10, 4, 0)));
    rig.answer(DOWN).await;
    assert_eq!(rig.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn failures_admitted_before_opening_do_not_grow_with_the_successes_before() {
    for successes in [100, 10_000, 1_000_000] {
        let window = ten_calls().count_window(100);
        assert_eq!(failures_admitted_after(successes, window).await, 50, "{successes}");
    }
}

#[tokio::test(start_paused = true)]
async fn old_successes_leave_the_window_one_by_one() {
    let rig = Rig::new(ten_calls());
    // The breaker never opens while six of ten calls succeed.
    for _ in 0..100 {
        rig.answers(4, DOWN).await;
        rig.answers(6, WELL).await;
        assert_eq!((rig.state(), rig.window()), (State::Closed, (10, 4, 0)));
    }
}

#[tokio::test(start_paused = true)]
async fn fewer_calls_than_the_minimum_do_not_trip() {
    for builder in [ten_calls(), CircuitBreakerLayer::builder().minimum_calls(10)] {
        let rig = Rig::new(builder);
        rig.answers(9, DOWN).await;
        assert_eq!((rig.state(), rig.window()), (State::Closed, (9, 9, 0)));
        rig.answer(DOWN).await;
        assert_eq!(rig.state(), State::Open);
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_met_exactly() {
    for (rate, failures) in [(0.3, 3), (0.1, 1), (0.7, 7), (1.0, 10), (0.25, 3)] {
        let rig = Rig::new(ten_calls().failure_rate(rate));
        rig.answers(10, WELL).await;
        rig.answers(failures - 1, DOWN).await;
        assert_eq!(rig.state(), State::Closed, "{rate}");
        rig.answer(DOWN).await;
        assert_eq!(rig.state(), State::Open, "{rate}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_defaults_open_at_half_of_twenty_calls_in_ten_seconds() {
    let rig = Rig::new(CircuitBreakerLayer::builder());
    rig.answers(10, WELL).await;
    rig.answers(9, DOWN).await;
    assert_eq!((rig.state(), rig.window()), (State::Closed, (19, 9, 0)));
    rig.answer(DOWN).await;
    assert_eq!(rig.state(), State::Open);
    assert!(rig.seen().retry_after().unwrap() >= OPEN_FOR);
}

#[tokio::test(start_paused = true)]
async fn time_window_slides_in_buckets() {
    let rig = Rig::new(CircuitBreakerLayer::builder().minimum_calls(1_000));
    // There is one call in each of thirty seconds. Calls of the last ten seconds are counted.
    for second in 0..30 {
        rig.answer(if second % 2 == 0 { DOWN } else { WELL }).await;
        let calls = (second + 1).min(10);
        assert_eq!(rig.window(), (calls, (calls + 1 - second % 2) / 2, 0), "{second}");
        advance(SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_time_window_is_exact_to_a_tenth() {
    for (gap, counted) in [(0, 19), (8_999, 19), (9_000, 19), (10_000, 0), (1_000_000, 0)] {
        let rig = Rig::new(CircuitBreakerLayer::builder());
        rig.answers(19, DOWN).await;
        advance(MS * gap).await;
        assert_eq!(rig.window(), (counted, counted, 0), "after {gap} ms");
        rig.answer(DOWN).await;
        let expected = if counted == 0 { State::Closed } else { State::Open };
        assert_eq!(rig.state(), expected, "after {gap} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_window_does_not_count_again_what_is_long_gone() {
    // A window of 10 ms has gone through 2^24 times after 47 hours.
    let rig = Rig::new(CircuitBreakerLayer::builder().time_window(MS * 10));
    for laps in [1_u32 << 24, 1 << 25, 3 << 24] {
        rig.answers(19, DOWN).await;
        assert_eq!(rig.window(), (19, 19, 0));
        advance(MS * 10 * laps).await;
        assert_eq!(rig.window(), (0, 0, 0), "after {laps} laps");
        rig.answer(DOWN).await;
        assert_eq!((rig.state(), rig.window()), (State::Closed, (1, 1, 0)), "after {laps} laps");
        advance(SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_computed_when_it_is_read() {
    let rig = Rig::new(CircuitBreakerLayer::builder().slow_calls(SECOND, 1.0));
    rig.answers(5, WELL).await;
    rig.answer_after(SECOND, DOWN).await;
    assert_eq!(rig.window(), (6, 1, 1));
    // The window empties even without calls.
    advance(SECOND * 10).await;
    assert_eq!(rig.window(), (0, 0, 0));

    rig.trip().await;
    assert_eq!(rig.seen().retry_after().map(|left| left >= OPEN_FOR), Some(true));
    advance(SECOND * 29).await;
    let left = rig.seen().retry_after().unwrap();
    assert!(left >= SECOND && left <= SECOND * 4, "{left:?}");
    advance(OPEN_FOR).await;
    assert_eq!((rig.seen().retry_after(), rig.state()), (None, State::Open));
}

#[tokio::test(start_paused = true)]
async fn consecutive_failures_trip_whatever_the_minimum() {
    for builder in [ten_calls(), CircuitBreakerLayer::builder()] {
        let rig = Rig::new(builder.failure_rate(1.0).consecutive_failures(3));
        for _ in 0..50 {
            rig.answers(2, DOWN).await;
            rig.answer(WELL).await;
        }
        assert_eq!(rig.state(), State::Closed);
        rig.answers(3, DOWN).await;
        assert_eq!(rig.state(), State::Open);
        // The count starts again after the next closing.
        rig.breaker.reset();
        rig.answers(2, DOWN).await;
        assert_eq!(rig.state(), State::Closed);
        rig.answer(DOWN).await;
        assert_eq!(rig.state(), State::Open);
    }
}

#[tokio::test(start_paused = true)]
async fn failures_do_not_trip_a_breaker_without_a_failure_rate() {
    let rig = Rig::new(ten_calls().without_failure_rate().slow_calls(SECOND, 0.5));
    rig.answers(1_000, DOWN).await;
    assert_eq!((rig.state(), rig.window()), (State::Closed, (10, 10, 0)));
}

#[tokio::test(start_paused = true)]
async fn slow_calls_trip_though_they_succeed() {
    let by_time = CircuitBreakerLayer::builder().minimum_calls(10).time_window(SECOND * 100);
    let rig = Rig::new(by_time.slow_calls(SECOND, 0.3));
    for _ in 0..8 {
        rig.answer_after(SECOND - MS, WELL).await;
    }
    rig.answer_after(SECOND, WELL).await;
    rig.answer_after(SECOND * 2, WELL).await;
    assert_eq!((rig.state(), rig.window()), (State::Closed, (10, 0, 2)));
    rig.answer_after(SECOND, WELL).await;
    assert_eq!((rig.state(), rig.window().0), (State::Closed, 11));
    rig.answer_after(SECOND, WELL).await;
    assert_eq!(rig.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn an_attempts_own_timeout_counts() {
    let layer = ten_calls().build().unwrap();
    let timeout = TimeoutLayer::new(SECOND);
    let rig = Rig::of(layer.handle(), |inner| layer.layer(timeout.layer(inner)));
    for _ in 0..10 {
        assert_eq!(rig.state(), State::Closed);
        rig.inner.push(Step::Hang);
        let error = rig.call().await.unwrap_err();
        assert_eq!(error.rejection().map(Rejection::kind), Some("timed_out"));
    }
    assert_eq!(rig.state(), State::Open);
    assert_eq!(rig.inner.dropped(), 10);
}

/// Returns every rejection except the timeout of an attempt.
fn rejections_beneath() -> Vec<Error<&'static str>> {
    vec![
        Error::rejected(BulkheadFull::new("beneath", 1)),
        Error::rejected(QueueTimedOut::new("beneath", SECOND)),
        Error::rejected(CircuitOpen::new("beneath", Some(SECOND))),
        Error::rejected(DeadlineExceeded::new("beneath")),
        Error::rejected(NotReady::new("beneath", SECOND)),
        Error::rejected(RateLimited::new("beneath", None)),
    ]
}

#[tokio::test(start_paused = true)]
async fn rejections_beneath_neither_trip_nor_heal() {
    let rig = Rig::new(ten_calls().consecutive_failures(6));
    rig.answers(5, DOWN).await;
    for _ in 0..20 {
        for rejection in rejections_beneath() {
            rig.answer(Err(rejection)).await;
        }
    }
    assert_eq!((rig.state(), rig.window()), (State::Closed, (5, 5, 0)));
    // They also did not end the streak of failures.
    rig.answer(DOWN).await;
    assert_eq!(rig.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn rejections_beneath_neither_pass_nor_fail_a_probe() {
    let rig = Rig::new(ten_calls());
    rig.trip_and_wait().await;
    for _ in 0..20 {
        for rejection in rejections_beneath() {
            rig.answer(Err(rejection)).await;
        }
    }
    assert_eq!((rig.state(), rig.seen().probes()), (State::HalfOpen, 0));
    rig.answers(2, WELL).await;
    assert_eq!(rig.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_full_bulkhead_beneath_does_not_trip() {
    let layer = ten_calls().build().unwrap();
    let bulkhead = BulkheadLayer::builder().max_concurrent(1).build().unwrap();
    let rig = Rig::of(layer.handle(), |inner| layer.layer(bulkhead.layer(inner)));
    rig.inner.push(Step::RespondWhenReleased(WELL));
    let mut first = rig.ready().call(());
    assert!(first.poll().is_pending());
    for _ in 0..100 {
        let error = rig.call().await.unwrap_err();
        assert_eq!(error.rejection().map(Rejection::kind), Some("bulkhead_full"));
    }
    assert_eq!((rig.state(), rig.window()), (State::Closed, (0, 0, 0)));
    rig.inner.release();
    assert!(first.is_woken() && first.poll().is_ready());
    assert_eq!(rig.window(), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_beneath_does_not_trip_the_one_above() {
    let (above, beneath) = (ten_calls().build().unwrap(), ten_calls().build().unwrap());
    beneath.handle().force_open();
    let rig = Rig::of(above.handle(), |inner| above.layer(beneath.layer(inner)));
    for _ in 0..100 {
        rig.rejected().await;
    }
    assert_eq!((rig.state(), rig.window()), (State::Closed, (0, 0, 0)));
}

/// Classifies results by their text.
fn by_text(result: Result<&&str, &Error<&str>>) -> Outcome {
    match result {
        Ok(&"odd") | Err(Error::Service("odd")) => Outcome::Ignored,
        Ok(&"wrong") | Err(Error::Service("wrong")) => Outcome::Failure(Fault::Permanent),
        Ok(&"busy") | Err(Error::Service("busy")) => {
            Outcome::Failure(Fault::InProgress { retry_after: Some(SECOND) })
        }
        Ok(_) => Outcome::Success,
        Err(_) => Outcome::Failure(Fault::Transient),
    }
}

#[tokio::test(start_paused = true)]
async fn ignored_results_neither_trip_nor_heal() {
    let layer = ten_calls().consecutive_failures(6).classify_fn(by_text).build().unwrap();
    let rig = Rig::of(layer.handle(), |inner| layer.layer(inner));
    let says_nothing = [Ok("odd"), Err(Error::Service("odd"))].map(Answer::from);

    rig.answers(5, DOWN).await;
    for answer in says_nothing.iter().cycle().take(90) {
        rig.answer(answer.clone()).await;
    }
    assert_eq!((rig.state(), rig.window()), (State::Closed, (5, 5, 0)));
    rig.answer(DOWN).await;
    assert_eq!(rig.state(), State::Open);

    // Such probes free their slot.
    advance(OPEN_FOR).await;
    for answer in says_nothing.iter().cycle().take(90) {
        rig.answer(answer.clone()).await;
        assert_eq!((rig.state(), rig.seen().probes()), (State::HalfOpen, 0));
    }
    rig.answers(2, WELL).await;
    assert_eq!(rig.state(), State::Closed);
}

/// The responses of a service that is well, though they are no successes.
fn responses() -> [Answer; 4] {
    ["wrong", "busy"].map(|text| [Ok(text), Err(Error::Service(text))]).concat().try_into().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_response_is_evidence_of_health() {
    for builder in [ten_calls, || CircuitBreakerLayer::builder().minimum_calls(10)] {
        for response in responses() {
            let layer = builder()
                .consecutive_failures(5)
                .slow_calls(SECOND, 0.5)
                .classify_fn(by_text)
                .build()
                .unwrap();
            let rig = Rig::of(layer.handle(), |inner| layer.layer(inner));
            // It ends a row of failures.
            rig.answers(4, DOWN).await;
            rig.answer(response.clone()).await;
            rig.answer(DOWN).await;
            assert_eq!((rig.state(), rig.window()), (State::Closed, (6, 5, 0)), "{response:?}");
            // It is in the denominator of the failure rate.
            rig.breaker.reset();
            for _ in 0..50 {
                rig.answers(9, response.clone()).await;
                rig.answer(DOWN).await;
            }
            assert_eq!(rig.state(), State::Closed, "{response:?}");
            // It counts as a slow call.
            rig.breaker.reset();
            for _ in 0..4 {
                rig.answer_after(SECOND, response.clone()).await;
            }
            assert_eq!(rig.window(), (4, 0, 4), "{response:?}");
            // It passes a probe, unless it is slow.
            rig.trip_and_wait().await;
            rig.answer_after(SECOND, response.clone()).await;
            rig.answers(2, response.clone()).await;
            assert_eq!(rig.state(), State::Closed, "{response:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_half_open_breaker_of_a_service_that_only_finds_nothing_closes_for_fifty_callers() {
    let layer = ten_calls().classify_fn(by_text).build().unwrap();
    let rig = Rig::of(layer.handle(), |inner| layer.layer(inner));
    rig.trip_and_wait().await;
    let wrong = || Err(Error::Service("wrong"));
    rig.inner.otherwise(wrong);
    for _ in 0..3 {
        rig.inner.push(Step::RespondAfter(MS * 20, wrong()));
    }
    let results = join_all((0..50).map(|_| rig.call())).await;
    assert_eq!(results.iter().filter(|result| is_rejected(result)).count(), 47);
    assert_eq!(rig.state(), State::Closed);
    let results = join_all((0..50).map(|_| rig.call())).await;
    assert!(results.iter().all(|result| *result == wrong()));
}

#[tokio::test(start_paused = true)]
async fn a_classifier_says_what_is_a_failure() {
    let layer = ten_calls()
        .classify_fn(|result: Result<&&str, &Error<&str>>| match result {
            Ok(&"500") => Outcome::Failure(Fault::Transient),
            _ => Outcome::Success,
        })
        .build()
        .unwrap();
    let rig = Rig::of(layer.handle(), |inner| layer.layer(inner));
    rig.answers(100, DOWN).await;
    assert_eq!((rig.state(), rig.window()), (State::Closed, (10, 0, 0)));
    rig.answers(5, Ok("500")).await;
    assert_eq!(rig.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_classifier_is_never_shown_a_rejection() {
    let layer = ten_calls()
        .classify_fn(|result: Result<&&str, &Error<&str>>| match result {
            Err(Error::Rejected(rejection)) => panic!("shown {rejection:?}"),
            _ => Outcome::Success,
        })
        .build()
        .unwrap();
    let timeout = TimeoutLayer::new(SECOND);
    let rig = Rig::of(layer.handle(), |inner| layer.layer(timeout.layer(inner)));
    for rejection in rejections_beneath() {
        rig.answer(Err(rejection)).await;
    }
    for _ in 0..10 {
        rig.inner.push(Step::Hang);
        assert!(rig.call().await.is_err());
    }
    assert_eq!(rig.state(), State::Open);
    rig.rejected().await;
}

#[tokio::test(start_paused = true)]
async fn pause_and_advance_move_the_breaker() {
    let rig = Rig::new(CircuitBreakerLayer::builder().open_jitter(0.0));
    rig.trip().await;
    advance(OPEN_FOR - MS).await;
    rig.rejected().await;
    advance(MS).await;
    rig.answers(2, WELL).await;
    assert_eq!(rig.state(), State::Closed);
    // The same holds for sleeping, which takes no real time on the paused clock.
    rig.trip().await;
    sleep(Duration::from_secs(3_600)).await;
    rig.answer(WELL).await;
}

#[tokio::test(start_paused = true)]
async fn closing_begins_with_an_empty_window() {
    for builder in [ten_calls(), CircuitBreakerLayer::builder().time_window(SECOND * 1_000)] {
        let rig = Rig::new(builder.minimum_calls(10).slow_calls(SECOND, 1.0));
        rig.answer_after(SECOND, WELL).await;
        rig.trip_and_wait().await;
        rig.answers(2, WELL).await;
        assert_eq!((rig.state(), rig.window()), (State::Closed, (0, 0, 0)));
        rig.answers(9, DOWN).await;
        assert_eq!((rig.state(), rig.window()), (State::Closed, (9, 9, 0)));
    }
}
