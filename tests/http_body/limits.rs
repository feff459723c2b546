use buttress::Deadline;
use tokio::time::advance;

use super::*;

fn deadlined() -> Rig {
    Rig::client_with(window(), HttpClientLayer::builder().body_deadline())
}

#[tokio::test(start_paused = true)]
async fn time_in_which_nobody_polls_does_not_count() {
    let rig = Rig::client();
    let feed = Feed::new([Step::Data("a")]);
    let mut reader = rig.read(&feed).await;
    advance(IDLE * 10).await;
    assert_eq!(next(&mut reader), data("a"));
    advance(IDLE * 10).await;
    assert!(next(&mut reader).is_pending());
    advance(IDLE - MS).await;
    assert!(next(&mut reader).is_pending());
    rig.assert_under_way();
    advance(MS).await;
    assert_eq!(next(&mut reader), timed_out("idle response body", IDLE));
}

#[tokio::test(start_paused = true)]
async fn a_frame_lets_a_reader_wait_anew() {
    let rig = Rig::client();
    let feed = Feed::new([]);
    let mut reader = rig.read(&feed).await;
    for _ in 0..4 {
        assert!(next(&mut reader).is_pending());
        advance(IDLE - MS).await;
        assert!(!reader.is_woken());
        feed.push([Step::Data("a")]);
        assert!(reader.is_woken());
        assert_eq!(next(&mut reader), data("a"));
    }
    rig.assert_under_way();
}

#[tokio::test(start_paused = true)]
async fn data_that_is_there_beats_the_limit() {
    let rig = Rig::client();
    let feed = Feed::new([]);
    let mut reader = rig.read(&feed).await;
    assert!(next(&mut reader).is_pending());
    advance(IDLE * 2).await;
    feed.push([Step::Data("a")]);
    assert_eq!(next(&mut reader), data("a"));
    rig.assert_under_way();
}

#[tokio::test(start_paused = true)]
async fn without_an_idle_limit_a_reader_waits_for_ever() {
    let client = Rig::client_with(window(), HttpClientLayer::builder().without_body_idle());
    // A stream of events may be silent for a long time. Therefore, a server has no idle limit by
    // default.
    for rig in [client, Rig::server_with(window(), ServerSettings::default())] {
        let mut reader = rig.read(&Feed::new([])).await;
        for _ in 0..3 {
            assert!(next(&mut reader).is_pending());
            advance(SECOND * 86_400).await;
            assert!(!reader.is_woken());
        }
        assert_eq!((rig.in_flight(), rig.verdict()), (1, (0, 0)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_download_may_take_longer_than_its_head() {
    let rig = Rig::client();
    let deadline = Deadline::after(SECOND);
    let mut reader = Deadline::scope(deadline, rig.read(&Feed::new([]))).await.unwrap();
    assert!(next(&mut reader).is_pending());
    advance(SECOND * 10).await;
    assert!(next(&mut reader).is_pending());
    rig.assert_under_way();
}

#[tokio::test(start_paused = true)]
async fn on_request_the_deadline_holds_to_the_last_frame() {
    // The deadline is long enough that the call does not end because of an impatient caller.
    const LONG: Duration = Duration::from_secs(3);
    let rig = deadlined();
    let feed = Feed::new([Step::Data("a")]);
    let mut reader = Deadline::scope(Deadline::after(LONG), rig.read(&feed)).await.unwrap();
    assert_eq!(next(&mut reader), data("a"));
    assert!(next(&mut reader).is_pending());
    advance(LONG - MS).await;
    assert!(!reader.is_woken());
    advance(MS).await;
    assert!(reader.is_woken());
    assert_eq!(next(&mut reader), timed_out("response body", LONG));
    // The deadline is the caller's.
    rig.assert_ended((0, 0));

    let limit = ServerSettings { limit: Some(LONG), body_deadline: true, ..Default::default() };
    let rig = Rig::server_with(window(), limit);
    let mut reader = rig.read(&Feed::new([Step::Data("a")])).await;
    advance(LONG).await;
    assert_eq!(next(&mut reader), timed_out("response body", LONG));
    // The reader was slow, and not the handler.
    rig.assert_ended((0, 0));

    let rig = Rig::server_with(window(), limit);
    let mut reader = rig.read(&Feed::new([Step::Data("a")])).await;
    assert_eq!(next(&mut reader), data("a"));
    advance(LONG / 10).await;
    assert!(next(&mut reader).is_pending());
    advance(LONG - LONG / 10).await;
    assert_eq!(next(&mut reader), timed_out("response body", LONG));
    // The handler kept it waiting for most of the server's limit.
    rig.assert_ended((1, 1));
}

#[tokio::test(start_paused = true)]
async fn of_two_limits_the_nearer_one_counts() {
    let rig = deadlined();
    let long = Deadline::after(IDLE + SECOND);
    let feed = Feed::new([]);
    let mut reader = Deadline::scope(long, rig.read(&feed)).await.unwrap();
    assert!(next(&mut reader).is_pending());
    advance(IDLE - MS).await;
    feed.push([Step::Data("a")]);
    assert_eq!(next(&mut reader), data("a"));
    // The idle limit came first until now. The deadline is nearer from here.
    assert!(next(&mut reader).is_pending());
    advance(SECOND).await;
    assert!(!reader.is_woken());
    advance(MS).await;
    assert!(reader.is_woken());
    assert_eq!(next(&mut reader), timed_out("response body", IDLE + SECOND));
}
