use std::panic::{AssertUnwindSafe, catch_unwind};

use buttress::{
    Deadline,
    circuit_breaker::State,
    http::{GrpcClassifier, wire::GrpcCode},
};
use tokio::time::advance;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_no_bodies_opens_a_breaker_at_five_percent() {
    let rig =
        Rig::client_with(window().count_window(100).minimum_calls(5), HttpClientLayer::builder());
    for call in 0..100 {
        let mut answer = Response::new(Feed::new([Step::Data("ok"), Step::End]).body());
        if call % 20 == 19 {
            *answer.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        }
        // A POST is not retried.
        let mut ask = Ask::default();
        *ask.method_mut() = http::Method::POST;
        drop(rig.ask(ask, answer).await.unwrap());
    }
    assert_eq!(rig.verdict(), (100, 5));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_no_bodies_closes_its_breaker() {
    let breaker = window().consecutive_failures(1).probes(1);
    let rig = Rig::client_with(breaker, HttpClientLayer::builder());
    let mut reader = rig.read(&Feed::new([Step::Fail])).await;
    assert!(next(&mut reader).is_ready());
    advance(rig.breakers[0].snapshot().retry_after().unwrap()).await;
    for _ in 0..1_000 {
        drop(rig.get(&Feed::new([Step::Data("ok"), Step::End])).await);
        advance(SECOND).await;
    }
    assert_eq!(rig.breakers[0].state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_no_slow_call() {
    let breaker = window().count_window(1).minimum_calls(1).slow_calls(SECOND, 0.5);
    let rig = Rig::client_with(breaker, HttpClientLayer::builder());
    let mut reader = rig.read(&Feed::new([Step::Data("a"), Step::End])).await;
    assert_eq!(next(&mut reader), data("a"));
    advance(SECOND * 5).await;
    assert_eq!(next(&mut reader), Poll::Ready(Got::End));
    assert_eq!(rig.breakers[0].state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_comes_too_late_is_no_failure() {
    let rig = Rig::client();
    let feed = Feed::new([Step::Data("a"), Step::Data("b"), Step::Data("c")]);
    let call = rig.stream(&feed);
    let mut reader = Deadline::scope(Deadline::after(SECOND * 5), call).await.unwrap();
    assert_eq!(next(&mut reader), data("a"));
    advance(SECOND * 6).await;
    assert_eq!(next(&mut reader), timed_out("response body", SECOND * 5));
    assert_eq!(rig.verdict().1, 0);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_drips_past_the_limit_of_its_stack_has_failed() {
    let rig = Rig::client_within(Some(SECOND * 5), window(), HttpClientLayer::builder());
    let feed = Feed::new([]);
    let mut reader = rig.stream(&feed).await;
    for _ in 0..4 {
        assert!(next(&mut reader).is_pending());
        advance(SECOND).await;
        feed.push([Step::Data("a")]);
        assert_eq!(next(&mut reader), data("a"));
    }
    assert!(next(&mut reader).is_pending());
    advance(SECOND).await;
    feed.push([Step::Data("a")]);
    assert_eq!(next(&mut reader), timed_out("response body", SECOND * 5));
    assert_eq!(rig.verdict(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_drips_past_a_deadline_of_its_caller_says_nothing() {
    let rig = Rig::client();
    let feed = Feed::new([]);
    let call = rig.stream(&feed);
    let mut reader = Deadline::scope(Deadline::after(SECOND * 5), call).await.unwrap();
    for _ in 0..5 {
        assert!(next(&mut reader).is_pending());
        advance(SECOND).await;
        feed.push([Step::Data("a")]);
        let _ = next(&mut reader);
    }
    rig.assert_ended((0, 0));
}

#[tokio::test(start_paused = true)]
async fn time_away_after_a_poll_does_not_count() {
    let rig = Rig::client();
    let mut reader = rig.read(&Feed::new([])).await;
    assert!(next(&mut reader).is_pending());
    advance(IDLE * 3).await;
    assert!(next(&mut reader).is_pending());
}

#[tokio::test(start_paused = true)]
async fn a_classifier_that_panics_at_the_end_counts() {
    let classifier = GrpcClassifier::new().adjust_fn(|code: GrpcCode, _| match code {
        GrpcCode::NotFound => panic!("a bug"),
        _ => None,
    });
    let rig = Rig::client_with(window(), HttpClientLayer::builder().classify(classifier));
    let mut reader = rig.stream(&Feed::new([grpc_status("5")])).await;
    assert!(catch_unwind(AssertUnwindSafe(|| next(&mut reader))).is_err());
    assert_eq!(rig.in_flight(), 0, "slot");
    assert_eq!(rig.verdict(), (1, 1), "verdict");
}

#[tokio::test(start_paused = true)]
async fn an_idle_body_has_failed_however_little_time_its_caller_had() {
    for idle in [500, 1_000, 1_900, 2_100] {
        let client = HttpClientLayer::builder().body_idle(MS * idle);
        let rig = Rig::client_with(window(), client);
        let feed = Feed::new([]);
        let call = rig.read(&feed);
        let mut reader = Deadline::scope(Deadline::after(MS * 700), call).await.unwrap();
        assert!(next(&mut reader).is_pending());
        advance(MS * idle).await;
        assert_eq!(next(&mut reader), timed_out("idle response body", MS * idle));
        assert_eq!(rig.verdict(), (1, 1), "{idle} ms");
    }
}
