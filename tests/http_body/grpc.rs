use std::future::poll_fn;

use buttress::Deadline;
use http::StatusCode;
use tokio::time::advance;

use super::{spans::told, *};

/// One end of a stream after its first message.
struct End {
    steps: Vec<Step>,
    outcome: &'static str,
    error: Option<&'static str>,
    verdict: (u64, u64),
}

fn endings() -> Vec<End> {
    let end = |steps, outcome, error, verdict| End { steps, outcome, error, verdict };
    let unknown = Some("UNKNOWN");
    vec![
        end(vec![grpc_status("0")], "success", None, (1, 0)),
        end(vec![grpc_status("14")], "transient", Some("UNAVAILABLE"), (1, 1)),
        end(vec![grpc_status("4")], "timed_out", Some("DEADLINE_EXCEEDED"), (1, 1)),
        end(vec![grpc_status("8")], "overloaded", Some("RESOURCE_EXHAUSTED"), (1, 1)),
        // The caller's own fault: the service is well.
        end(vec![grpc_status("3")], "permanent", Some("INVALID_ARGUMENT"), (1, 0)),
        end(vec![grpc_status("nonsense")], "transient", unknown, (1, 1)),
        // Without a status, the outcome of the call is not known.
        end(vec![Step::Trailers(HeaderMap::new())], "transient", unknown, (1, 1)),
        end(vec![Step::End], "transient", unknown, (1, 1)),
        end(vec![Step::Data("last"), Step::Closed], "transient", unknown, (1, 1)),
        end(vec![Step::Fail], "transient", Some("body"), (1, 1)),
    ]
}

#[tokio::test(start_paused = true)]
async fn the_status_in_the_trailers_is_the_verdict() {
    for End { steps, outcome, error, verdict } in endings() {
        for (attempts, make) in [(true, Rig::client as fn() -> Rig), (false, Rig::server)] {
            let rig = make();
            let feed = Feed::new([Step::Data("message")]);
            let mut reader = rig.stream(&feed).await;
            assert_eq!(next(&mut reader), data("message"));
            assert!(next(&mut reader).is_pending());
            rig.assert_under_way();
            feed.push(steps.clone());
            assert!(next(&mut reader).is_ready());
            assert_eq!((rig.in_flight(), rig.verdict()), (0, verdict), "{steps:?}");
            let call = told("call", if error.is_some() { "failure" } else { outcome }, error);
            assert_eq!(rig.spans.closed().last(), Some(&call), "{steps:?}");
            if attempts {
                assert_eq!(rig.spans.closed()[0], told("attempt", outcome, error), "{steps:?}");
            }
            drop(reader);
            assert_eq!(rig.verdict(), verdict);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_its_caller_dropped_is_a_cancellation() {
    for make in [Rig::client, Rig::server] {
        let rig = make();
        let mut reader = rig.stream(&Feed::new([Step::Data("message")])).await;
        assert_eq!(next(&mut reader), data("message"));
        drop(reader);
        rig.assert_ended((0, 0));
        assert_eq!(rig.spans.closed().last(), Some(&told("call", "cancelled", None)));
    }
}

/// Makes a call whose response has a status in its headers, and no trailers.
async fn trailers_only(rig: &Rig, status: &'static str, feed: &Feed) -> Spawn<Reader> {
    let (request, mut answer) = grpc(Response::new(feed.body()));
    answer.headers_mut().insert("grpc-status", HeaderValue::from_static(status));
    task::spawn(rig.ask(request, answer).await.unwrap().into_body())
}

#[tokio::test(start_paused = true)]
async fn a_status_in_the_headers_is_the_verdict() {
    for (status, verdict) in [("0", (1, 0)), ("3", (1, 0)), ("14", (1, 1))] {
        for make in [Rig::client, Rig::server] {
            let rig = make();
            let _unread = trailers_only(&rig, status, &Feed::new([Step::Closed])).await;
            assert_eq!((rig.in_flight(), rig.verdict()), (0, verdict), "{status}");

            // Some peers do not mark the end in the same frame.
            let rig = make();
            let mut reader = trailers_only(&rig, status, &Feed::new([Step::End])).await;
            assert_eq!(rig.in_flight(), 1);
            assert_eq!(next(&mut reader), Poll::Ready(Got::End));
            assert_eq!((rig.in_flight(), rig.verdict()), (0, verdict), "{status}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_a_proxy_needs_no_grpc_status() {
    let rig = Rig::client();
    let (request, mut answer) = grpc(Response::new(Feed::new([Step::End]).body()));
    *answer.status_mut() = StatusCode::NOT_FOUND;
    let mut reader = task::spawn(rig.ask(request, answer).await.unwrap().into_body());
    assert_eq!(next(&mut reader), Poll::Ready(Got::End));
    assert_eq!((rig.in_flight(), rig.verdict()), (0, (1, 0)));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_holds_to_the_last_frame_even_if_a_frame_is_always_ready() {
    let rig = Rig::client();
    let feed = Feed::new([]);
    let deadline = Deadline::after(SECOND * 5);
    let mut reader = Deadline::scope(deadline, rig.stream(&feed)).await.unwrap();
    for _ in 0..5 {
        feed.push([Step::Data("message")]);
        assert_eq!(next(&mut reader), data("message"));
        rig.assert_under_way();
        advance(SECOND).await;
    }
    feed.push([Step::Data("message")]);
    assert_eq!(next(&mut reader), timed_out("response body", SECOND * 5));
    assert!(feed.is_dropped());
    // No read was pending.
    rig.assert_ended((0, 0));
    assert_eq!(rig.spans.closed()[0], told("attempt", "timed_out", Some("timed_out")));
    assert_eq!(next(&mut reader), Poll::Ready(Got::End));
}

#[tokio::test(start_paused = true)]
async fn the_last_frame_is_late_for_nothing() {
    for last in [vec![grpc_status("0")], vec![Step::Data("last"), Step::Closed]] {
        let deadline = Deadline::after(SECOND);
        let rig = Rig::client();
        let feed = Feed::new([]);
        let mut reader = Deadline::scope(deadline, rig.stream(&feed)).await.unwrap();
        feed.push(last);
        advance(SECOND).await;
        assert!(!matches!(next(&mut reader), Poll::Ready(Got::TimedOut(..))));
        assert_eq!(rig.in_flight(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stalled_stream_is_cut_at_its_deadline() {
    let server = || {
        let settings = ServerSettings { limit: Some(SECOND * 5), ..Default::default() };
        Rig::server_with(window(), settings)
    };
    // A server reports it in the trailers. A reset stream would look like an error of the
    // handler.
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("4"));
    trailers.insert("grpc-message", HeaderValue::from_static("timed_out"));
    let on_server = Poll::Ready(Got::Trailers(trailers));
    let on_client = timed_out("response body", SECOND * 5);
    let within = || Rig::client_within(Some(SECOND * 5), window(), HttpClientLayer::builder());
    for (make, cut, verdict) in [
        // A deadline of its caller says nothing of the service.
        (Rig::client as fn() -> Rig, on_client.clone(), (0, 0)),
        // The limit of its own stack does.
        (within, on_client, (1, 1)),
        (server, on_server, (1, 1)),
    ] {
        let rig = make();
        let feed = Feed::new([]);
        let deadline = Deadline::after(SECOND * 5);
        let mut reader = Deadline::scope(deadline, rig.stream(&feed)).await.unwrap();
        assert!(next(&mut reader).is_pending());
        advance(SECOND * 5 - MS).await;
        assert!(!reader.is_woken());
        advance(MS).await;
        assert!(reader.is_woken());
        assert_eq!(next(&mut reader), cut);
        assert_eq!(next(&mut reader), Poll::Ready(Got::End));
        assert!(feed.is_dropped());
        rig.assert_ended(verdict);
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_has_passed_while_a_task_had_no_budget_left_is_seen() {
    let rig = Rig::client();
    let feed = Feed::new([]);
    let mut reader = rig.stream(&feed).await;
    assert!(next(&mut reader).is_pending());
    advance(IDLE).await;
    // Uses up the cooperative budget that tokio gives a task.
    poll_fn(|cx| {
        while tokio::task::coop::poll_proceed(cx).map(|left| left.made_progress()).is_ready() {}
        Poll::Ready(())
    })
    .await;
    assert_eq!(next(&mut reader), timed_out("idle response body", IDLE));
}
