use buttress::{Deadline, context::Attempt};
use http_body_util::BodyExt;
use tokio::time::advance;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_body_sees_the_deadline_and_the_attempt_of_its_call() {
    let deadline = Deadline::after(SECOND);
    let rig = Rig::client();
    let feed = Feed::new([Step::Data("a")]);
    let mut reader = Deadline::scope(deadline, rig.read(&feed)).await.unwrap();
    assert_eq!(feed.ambient(), None);
    assert_eq!(next(&mut reader), data("a"));
    assert_eq!(feed.ambient(), Some((Some(deadline), Some(1))));
    assert_eq!((Deadline::current(), Attempt::current()), (None, None));
    assert!(next(&mut reader).is_pending());
    assert_eq!(feed.ambient(), Some((Some(deadline), Some(1))));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_dropped_sees_them_too() {
    let deadline = Deadline::after(SECOND * 60);
    let rig = Rig::client();
    let feed = Feed::new([]);
    drop(Deadline::scope(deadline, rig.get(&feed)).await.unwrap());
    assert_eq!(feed.ambient(), Some((Some(deadline), Some(1))));

    let feed = Feed::new([]);
    let mut reader = Deadline::scope(deadline, rig.read(&feed)).await.unwrap();
    assert!(next(&mut reader).is_pending());
    advance(IDLE).await;
    assert!(!feed.is_dropped());
    assert!(next(&mut reader).is_ready());
    assert!(feed.is_dropped());
    assert_eq!(feed.ambient(), Some((Some(deadline), Some(1))));
}

#[tokio::test(start_paused = true)]
async fn a_reader_may_have_less_time_than_the_call_had() {
    let (near, far) = (Deadline::after(SECOND), Deadline::after(SECOND * 2));
    let rig = Rig::client();
    for (of_call, of_reader) in [(near, far), (far, near)] {
        let feed = Feed::new([Step::Data("a")]);
        let response = Deadline::scope(of_call, rig.get(&feed)).await.unwrap();
        let mut body = response.into_body();
        Deadline::scope(of_reader, body.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(feed.ambient(), Some((Some(near), Some(1))));
    }
}

#[tokio::test(start_paused = true)]
async fn on_a_server_a_body_sees_the_time_of_its_request() {
    let limit = ServerSettings { limit: Some(SECOND * 5), ..Default::default() };
    let rig = Rig::server_with(window(), limit);
    let mut request = Ask::default();
    let headers = request.headers_mut();
    headers.insert("x-envoy-expected-rq-timeout-ms", HeaderValue::from_static("1000"));
    headers.insert("x-envoy-attempt-count", HeaderValue::from_static("3"));
    let feed = Feed::new([Step::Data("a")]);
    let response = rig.ask(request, Response::new(feed.body())).await.unwrap();
    let mut reader = task::spawn(response.into_body());
    // A twentieth of the time is kept for the response.
    let deadline = Deadline::after(MS * 950);
    assert_eq!(next(&mut reader), data("a"));
    assert_eq!(feed.ambient(), Some((Some(deadline), Some(3))));
}
