use tokio::time::advance;

use super::{
    spans::{Told, told},
    *,
};

/// One way in which a body ends after its first frame, and the expected outcome.
struct Ending {
    name: &'static str,
    how: How,
    outcome: &'static str,
    verdict: (u64, u64),
}

enum How {
    /// A series of steps, of which the reader gets the last.
    Doing(fn() -> Vec<Step>, fn() -> Got),
    /// No step, while the reader waits.
    Stalling,
    /// A drop of the body.
    Dropping,
}

fn trailers() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", HeaderValue::from_static("7"));
    trailers
}

fn endings() -> Vec<Ending> {
    use How::{Doing, Dropping, Stalling};
    let ending = |name, how, outcome, verdict| Ending { name, how, outcome, verdict };
    let trailers_step = || vec![Step::Trailers(trailers())];
    vec![
        ending("trailers", Doing(trailers_step, || Got::Trailers(trailers())), "success", (1, 0)),
        ending("end", Doing(|| vec![Step::End], || Got::End), "success", (1, 0)),
        ending(
            "last data frame",
            Doing(
                || vec![Step::Data("last"), Step::Closed],
                || Got::Data(Bytes::from_static(b"last")),
            ),
            "success",
            (1, 0),
        ),
        ending("error", Doing(|| vec![Step::Fail], || Got::Broken), "transient", (1, 1)),
        ending("limit", Stalling, "timed_out", (1, 1)),
        ending("drop", Dropping, "cancelled", (0, 0)),
    ]
}

/// Returns the expected spans of one stack whose response has this outcome.
fn spans_of(attempts: bool, outcome: &'static str) -> Vec<Told> {
    let (attempt, call) = match outcome {
        "success" | "cancelled" => (told("attempt", outcome, None), told("call", outcome, None)),
        fault => {
            let cause = Some(if fault == "transient" { "body" } else { fault });
            (told("attempt", fault, cause), told("call", "failure", cause))
        }
    };
    if attempts { vec![attempt, call] } else { vec![call] }
}

/// Causes one ending, and checks at every step what is held.
async fn ends(rig: &Rig, ending: &Ending) {
    let feed = Feed::new([Step::Data("first")]);
    let mut reader = rig.read(&feed).await;
    rig.assert_under_way();
    assert_eq!(next(&mut reader), data("first"));
    rig.assert_under_way();
    assert!(next(&mut reader).is_pending());
    rig.assert_under_way();
    match ending.how {
        How::Doing(steps, last) => {
            assert!(!reader.is_woken());
            feed.push(steps());
            assert!(reader.is_woken());
            rig.assert_under_way();
            assert_eq!(next(&mut reader), Poll::Ready(last()));
        }
        How::Stalling => {
            advance(IDLE - MS).await;
            assert!(!reader.is_woken());
            assert!(next(&mut reader).is_pending());
            rig.assert_under_way();
            advance(MS).await;
            assert!(reader.is_woken());
            assert!(!feed.is_dropped());
            assert_eq!(next(&mut reader), timed_out("idle response body", IDLE));
            assert!(feed.is_dropped());
            assert_eq!(next(&mut reader), Poll::Ready(Got::End));
        }
        How::Dropping => return drop(reader),
    }
    // The call ended before the reader drops the body.
    rig.assert_ended(ending.verdict);
}

#[tokio::test(start_paused = true)]
async fn all_that_is_held_ends_with_the_body_and_not_before() {
    for ending in endings() {
        for (attempts, make) in [(true, Rig::client as fn() -> Rig), (false, Rig::server)] {
            let rig = make();
            ends(&rig, &ending).await;
            rig.assert_ended(ending.verdict);
            assert_eq!(rig.spans.closed(), spans_of(attempts, ending.outcome), "{}", ending.name);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn all_that_stacks_in_stacks_hold_ends_with_the_body() {
    for ending in endings() {
        let rig = Rig::nested();
        ends(&rig, &ending).await;
        rig.assert_ended(ending.verdict);
        // For the outer stack, the limit of the inner stack is an ordinary error.
        let outer = if ending.outcome == "timed_out" { "transient" } else { ending.outcome };
        let mut expected = spans_of(true, outer);
        expected.extend(spans_of(true, ending.outcome));
        expected.sort_by_key(|(name, ..)| *name);
        assert_eq!(rig.spans.closed(), expected, "{}", ending.name);
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_that_has_ended_at_its_head_holds_nothing() {
    for make in [Rig::client, Rig::server, Rig::nested] {
        let rig = make();
        let response = rig.get(&Feed::new([Step::Closed])).await;
        rig.assert_ended((1, 0));
        assert!(response.body().is_end_stream());
        drop(response);
        rig.assert_ended((1, 0));
        assert!(
            rig.spans.closed().iter().all(|(_, outcome, _)| outcome.as_deref() == Some("success"))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_is_counted_once() {
    for make in [Rig::client, Rig::server] {
        let rig = make();
        let feed = Feed::new([Step::Trailers(trailers()), Step::End, Step::Fail, Step::Fail]);
        let mut reader = rig.read(&feed).await;
        assert_eq!(next(&mut reader), Poll::Ready(Got::Trailers(trailers())));
        rig.assert_ended((1, 0));
        assert_eq!(next(&mut reader), Poll::Ready(Got::End));
        assert_eq!(next(&mut reader), Poll::Ready(Got::Broken));
        advance(IDLE * 2).await;
        drop(reader);
        rig.assert_ended((1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_success_pays_into_the_throttle_when_it_has_ended() {
    let rig = Rig::client();
    let mut reader = rig.read(&Feed::new([Step::Fail])).await;
    assert_eq!(next(&mut reader), Poll::Ready(Got::Broken));
    assert_eq!(rig.budgets[0].balance(), 9.0);
    let mut reader = rig.read(&Feed::new([Step::Data("a"), Step::End])).await;
    assert_eq!(next(&mut reader), data("a"));
    assert_eq!(rig.budgets[0].balance(), 9.0);
    assert_eq!(next(&mut reader), Poll::Ready(Got::End));
    assert_eq!(rig.budgets[0].balance(), 9.5);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_body_is_a_failure_and_gives_its_permit_back() {
    for make in [Rig::client, Rig::server, Rig::nested] {
        let rig = make();
        let feed = Feed::new([Step::Panic]);
        let mut reader = rig.read(&feed).await;
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| next(&mut reader)));
        assert!(panic.is_err());
        // This is checked before the reader is dropped, which may never happen.
        let failures: Vec<_> =
            rig.breakers.iter().map(|breaker| breaker.snapshot().failures()).collect();
        assert_eq!((rig.in_flight(), failures), (0, vec![1; rig.breakers.len()]));
        assert_eq!(rig.spans.open().0, 0);
        let panicked = |(name, ..): spans::Told| told(name, "panicked", Some("panic"));
        let closed = rig.spans.closed();
        assert_eq!(closed, closed.iter().cloned().map(panicked).collect::<Vec<_>>());
        drop(reader);
        assert_eq!(rig.verdict(), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_healthy_stream_that_is_dropped_is_no_failure() {
    for make in [Rig::client, Rig::server] {
        let rig = make();
        let feed = Feed::new([]);
        let mut reader = rig.read(&feed).await;
        // The duration of the read does not matter, nor the time without a reader.
        for _ in 0..5 {
            assert!(next(&mut reader).is_pending());
            advance(SECOND).await;
            feed.push([Step::Data("a")]);
            assert_eq!(next(&mut reader), data("a"));
            advance(SECOND * 10).await;
        }
        assert!(next(&mut reader).is_pending());
        advance(SECOND * 2 - MS).await;
        drop(reader);
        rig.assert_ended((0, 0));
        assert!(feed.is_dropped());
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_who_leaves_says_nothing_unless_a_time_is_set() {
    for make in [Rig::client_with_breaker, Rig::server_with_breaker] {
        let set = window().abandoned_after(SECOND * 2);
        for (breaker, waited, verdict) in [
            (window(), 2_000, (0, 0)),
            (window(), 29_000, (0, 0)),
            (set.clone(), 1_999, (0, 0)),
            (set, 2_000, (1, 1)),
        ] {
            let rig = make(breaker);
            let mut reader = rig.read(&Feed::new([Step::Data("a")])).await;
            assert_eq!(next(&mut reader), data("a"));
            assert!(next(&mut reader).is_pending());
            advance(MS * waited).await;
            drop(reader);
            assert_eq!((rig.in_flight(), rig.verdict()), (0, verdict), "{waited} ms");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn readers_who_leave_an_event_stream_say_nothing() {
    let rig = Rig::client_with(CircuitBreakerLayer::builder(), HttpClientLayer::builder());
    for _ in 0..25 {
        let mut reader = rig.read(&Feed::new([Step::Data("an event")])).await;
        assert_eq!(next(&mut reader), data("an event"));
        assert!(next(&mut reader).is_pending());
        advance(MS * 2_100).await;
        drop(reader);
    }
    assert_eq!((rig.in_flight(), rig.verdict()), (0, (0, 0)));
    assert_eq!(rig.breakers[0].state(), buttress::circuit_breaker::State::Closed);
}

#[tokio::test(start_paused = true)]
async fn size_hints_and_trailers_pass_untouched() {
    for make in [Rig::client, Rig::server, Rig::nested] {
        let rig = make();
        let feed = Feed::new([Step::Data("12345"), Step::Trailers(trailers())]).with_size(5);
        let mut reader = rig.read(&feed).await;
        assert_eq!(reader.size_hint().exact(), Some(5));
        assert!(!reader.is_end_stream());
        assert_eq!(next(&mut reader), data("12345"));
        assert_eq!(next(&mut reader), Poll::Ready(Got::Trailers(trailers())));
    }
}

#[test]
fn the_error_of_a_body_becomes_a_boxed_one() {
    let broken = buttress::BoxError::from(BodyError::Service(Broken));
    assert_eq!(broken.downcast_ref(), Some(&Broken));
    let late = buttress::error::TimedOut::new("body", SECOND);
    let error = BodyError::<Broken>::Rejected(late.into());
    assert_eq!(error.rejection().map(Rejection::kind), Some("timed_out"));
    let boxed = buttress::BoxError::from(error);
    let rejection = buttress::CarryRejection::rejection(&boxed);
    assert_eq!(rejection.map(Rejection::kind), Some("timed_out"));
}
