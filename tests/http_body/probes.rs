use buttress::{
    Outcome,
    circuit_breaker::State,
    http::{GrpcClassifier, wire::GrpcCode},
};
use tokio::time::advance;

use super::*;

/// Creates a client whose breaker is half-open, with the next call as its only probe.
async fn half_open() -> Rig {
    let breaker = window().consecutive_failures(1).probes(1);
    let rig = Rig::client_with(breaker, HttpClientLayer::builder());
    let mut reader = rig.read(&Feed::new([Step::Data("a"), Step::Fail])).await;
    assert_eq!(next(&mut reader), data("a"));
    assert_eq!(state(&rig), State::Closed);
    assert_eq!(next(&mut reader), Poll::Ready(Got::Broken));
    assert_eq!(state(&rig), State::Open);
    let open_for = rig.breakers[0].snapshot().retry_after().unwrap();
    advance(open_for).await;
    rig
}

fn state(rig: &Rig) -> State {
    rig.breakers[0].state()
}

async fn is_rejected(rig: &Rig) -> bool {
    let answer = Response::new(Feed::new([Step::Closed]).body());
    let rejected = rig.ask(Request::default(), answer).await.is_err();
    rig.answers.0.lock().unwrap().take();
    rejected
}

#[tokio::test(start_paused = true)]
async fn a_probe_lasts_as_long_as_its_body() {
    for (last, then) in [(Step::End, State::Closed), (Step::Fail, State::Open)] {
        let rig = half_open().await;
        let feed = Feed::new([Step::Data("a")]);
        let mut reader = rig.read(&feed).await;
        assert_eq!(next(&mut reader), data("a"));
        assert!(next(&mut reader).is_pending());
        assert_eq!((state(&rig), is_rejected(&rig).await), (State::HalfOpen, true));
        feed.push([last]);
        assert!(next(&mut reader).is_ready());
        assert_eq!(state(&rig), then);
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_caller_is_at_fault_has_passed() {
    let rig = half_open().await;
    let mut reader = rig.stream(&Feed::new([grpc_status("3")])).await;
    assert!(next(&mut reader).is_ready());
    assert_eq!((state(&rig), rig.in_flight()), (State::Closed, 0));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_panics_has_failed() {
    let rig = half_open().await;
    let mut reader = rig.read(&Feed::new([Step::Panic])).await;
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| next(&mut reader)));
    assert!(panic.is_err());
    assert_eq!((state(&rig), rig.in_flight()), (State::Open, 0));
}

#[tokio::test(start_paused = true)]
async fn a_healthy_probe_that_is_dropped_has_passed() {
    let rig = half_open().await;
    let feed = Feed::new([]);
    let mut reader = rig.read(&feed).await;
    for _ in 0..5 {
        assert!(next(&mut reader).is_pending());
        advance(SECOND).await;
        feed.push([Step::Data("a")]);
        assert_eq!(next(&mut reader), data("a"));
    }
    drop(reader);
    assert_eq!(state(&rig), State::Closed);
}

/// Creates a client whose breaker is half-open, and closes with the second of two probes.
async fn half_open_for_two(breaker: CircuitBreakerBuilder) -> Rig {
    let breaker = breaker.consecutive_failures(1).probes(2).probe_success_ratio(1.0);
    let rig = Rig::client_with(breaker, HttpClientLayer::builder());
    trip_and_wait(&rig).await;
    rig
}

async fn trip_and_wait(rig: &Rig) {
    let mut reader = rig.stream(&Feed::new([Step::Fail])).await;
    assert!(next(&mut reader).is_ready());
    advance(rig.breakers[0].snapshot().retry_after().unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn streams_whose_readers_all_leave_close_the_breaker() {
    for grpc in [false, true] {
        for has_read in [false, true] {
            let rig = half_open_for_two(window()).await;
            for then in [State::HalfOpen, State::Closed] {
                let feed = Feed::new([Step::Data("a")]);
                let mut reader = if grpc { rig.stream(&feed).await } else { rig.read(&feed).await };
                assert_eq!(next(&mut reader), data("a"));
                if has_read {
                    assert!(next(&mut reader).is_pending());
                    advance(MS * 2_100).await;
                }
                drop(reader);
                assert_eq!((state(&rig), rig.in_flight()), (then, 0), "grpc: {grpc}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_with_a_status_that_says_nothing_closes_the_breaker_too() {
    let classifier = GrpcClassifier::new()
        .adjust_fn(|code: GrpcCode, _| (code == GrpcCode::Cancelled).then_some(Outcome::Ignored));
    let breaker = window().consecutive_failures(1).probes(2).probe_success_ratio(1.0);
    let rig = Rig::client_with(breaker, HttpClientLayer::builder().classify(classifier));
    trip_and_wait(&rig).await;
    for then in [State::HalfOpen, State::Closed] {
        let mut reader = rig.stream(&Feed::new([Step::Data("a"), grpc_status("1")])).await;
        assert_eq!(next(&mut reader), data("a"));
        assert!(next(&mut reader).is_ready());
        assert_eq!((state(&rig), rig.in_flight()), (then, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_waited_for_abandoned_after_fails_its_probe() {
    let rig = half_open_for_two(window().abandoned_after(SECOND)).await;
    let mut reader = rig.read(&Feed::new([Step::Data("a")])).await;
    assert_eq!(next(&mut reader), data("a"));
    assert!(next(&mut reader).is_pending());
    advance(SECOND).await;
    drop(reader);
    assert_eq!(state(&rig), State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_body_is_silent_for_too_long_has_failed() {
    let client = HttpClientLayer::builder().body_idle(SECOND);
    let rig = Rig::client_with(window().consecutive_failures(1).probes(1), client);
    trip_and_wait(&rig).await;
    let mut reader = rig.read(&Feed::new([])).await;
    assert!(next(&mut reader).is_pending());
    advance(SECOND).await;
    assert_eq!(next(&mut reader), timed_out("idle response body", SECOND));
    assert_eq!(state(&rig), State::Open);
}
