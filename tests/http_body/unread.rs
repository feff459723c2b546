use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::{
    runtime::Builder,
    time::{advance, sleep},
};

use super::*;

/// The default time after which a response that is not read gives its slot back.
const UNREAD: Duration = Duration::from_secs(30);

fn served(settings: ServerSettings) -> Rig {
    Rig::server_with(window(), settings)
}

fn frames(count: usize) -> Feed {
    Feed::new((0..count).map(|_| Step::Data("a")))
}

/// A request of HTTP/2, whose response may not be polled until its caller grants a window.
fn over_http2() -> Ask {
    let mut request = Ask::default();
    *request.version_mut() = http::Version::HTTP_2;
    request
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_never_reads_gives_its_slot_back_and_may_still_read() {
    let shorter = ServerSettings { unread: Some(SECOND * 5), ..Default::default() };
    for (settings, unread) in [(ServerSettings::default(), UNREAD), (shorter, SECOND * 5)] {
        let rig = served(settings);
        let feed = Feed::new([Step::Data("a"), Step::Data("b"), Step::End]);
        let mut reader = rig.read(&feed).await;
        assert_eq!(next(&mut reader), data("a"));
        advance(unread - MS).await;
        rig.assert_under_way();
        advance(MS).await;
        rig.assert_ended((1, 0));
        assert!(!feed.is_dropped() && !reader.is_woken());
        assert_eq!(next(&mut reader), data("b"));
        assert_eq!(next(&mut reader), Poll::Ready(Got::End));
        drop(reader);
        rig.assert_ended((1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn each_read_begins_the_time_of_a_reader_anew() {
    let rig = served(ServerSettings::default());
    let mut reader = rig.read(&frames(10)).await;
    for _ in 0..10 {
        assert_eq!(next(&mut reader), data("a"));
        advance(UNREAD - MS).await;
        rig.assert_under_way();
    }
    advance(MS).await;
    rig.assert_ended((1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_waits_for_the_handler_keeps_its_slot() {
    let rig = served(ServerSettings::default());
    let feed = frames(1);
    let mut reader = rig.read(&feed).await;
    assert_eq!(next(&mut reader), data("a"));
    for _ in 0..3 {
        assert!(next(&mut reader).is_pending());
        advance(SECOND * 86_400).await;
        rig.assert_under_way();
        feed.push([Step::Data("a")]);
        assert_eq!(next(&mut reader), data("a"));
        advance(UNREAD - MS).await;
        rig.assert_under_way();
    }
    advance(MS).await;
    rig.assert_ended((1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_never_polled_gives_its_slot_back() {
    for steps in [vec![Step::Data("a"), Step::Closed], vec![Step::Data("a"), Step::End], vec![]] {
        let rig = served(ServerSettings::default());
        let feed = Feed::new(steps);
        let answer = Response::new(feed.body());
        let response = rig.ask(over_http2(), answer).await.unwrap();
        advance(UNREAD - MS).await;
        rig.assert_under_way();
        advance(MS).await;
        rig.assert_ended((1, 0));
        assert!(!feed.is_dropped());
        drop(response);
        assert!(feed.is_dropped());
        rig.assert_ended((1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_the_body_holds_for_one_that_is_not_read() {
    const LIMIT: Duration = Duration::from_secs(40);
    let idle = ServerSettings { idle: Some(LIMIT), ..Default::default() };
    let deadline = ServerSettings { limit: Some(LIMIT), body_deadline: true, ..Default::default() };
    for (settings, name) in [(idle, "idle response body"), (deadline, "response body")] {
        for (request, polled) in
            [(Ask::default(), true), (over_http2(), true), (over_http2(), false)]
        {
            let rig = served(settings);
            let feed = frames(2).with_size(2);
            let response = rig.ask(request, Response::new(feed.body())).await.unwrap();
            let mut reader = task::spawn(response.into_body());
            if polled {
                assert_eq!(next(&mut reader), data("a"));
            }
            advance(LIMIT - MS).await;
            rig.assert_under_way();
            assert!(!feed.is_dropped());
            advance(MS).await;
            // The reader is slow, and not the handler.
            rig.assert_ended((1, 0));
            assert!(feed.is_dropped(), "{name}");
            let (deadline, _) = feed.ambient().unwrap();
            assert_eq!(deadline.is_some(), settings.body_deadline);
            // A response that is cut off must not look complete.
            assert!(!reader.is_end_stream());
            assert_eq!(reader.size_hint().exact(), None);
            assert_eq!(next(&mut reader), timed_out(name, LIMIT));
            assert!(reader.is_end_stream());
            assert_eq!(next(&mut reader), Poll::Ready(Got::End));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_grpc_stream_that_is_not_read_ends_at_its_deadline() {
    let rig = served(ServerSettings { limit: Some(SECOND * 3), ..Default::default() });
    let feed = frames(2);
    let mut reader = rig.stream(&feed).await;
    assert_eq!(next(&mut reader), data("a"));
    advance(SECOND * 3).await;
    // The status is not known, and the handler is not to blame.
    rig.assert_ended((0, 0));
    assert!(feed.is_dropped());
    let Poll::Ready(Got::Trailers(trailers)) = next(&mut reader) else { panic!("a status") };
    assert_eq!(trailers["grpc-status"], "4");
}

#[tokio::test(start_paused = true)]
async fn a_limit_holds_for_a_reader_that_is_not_polled_after_its_wake_up() {
    let idle = ServerSettings { idle: Some(IDLE), ..Default::default() };
    let rig = served(idle);
    let feed = frames(1);
    let mut reader = rig.read(&feed).await;
    assert_eq!(next(&mut reader), data("a"));
    assert!(next(&mut reader).is_pending());
    advance(IDLE).await;
    assert!(reader.is_woken());
    rig.assert_under_way();
    advance(SECOND).await;
    // The handler was slow, and nobody ended its body.
    rig.assert_ended((1, 1));
    assert!(feed.is_dropped());
    assert_eq!(next(&mut reader), timed_out("idle response body", IDLE));
}

#[tokio::test(start_paused = true)]
async fn without_a_limit_an_unread_response_keeps_its_slot() {
    let rig = served(ServerSettings { unread: Some(Duration::MAX), ..Default::default() });
    let mut reader = rig.read(&frames(2)).await;
    assert_eq!(next(&mut reader), data("a"));
    advance(SECOND * 86_400 * 365).await;
    rig.assert_under_way();
}

#[tokio::test(start_paused = true)]
async fn a_body_that_panics_when_an_unread_response_is_cut_gives_its_slot_back() {
    let rig = served(ServerSettings { idle: Some(IDLE), ..Default::default() });
    let feed = Feed::new([Step::Data("a"), Step::PanicOnDrop]);
    let mut reader = rig.read(&feed).await;
    assert_eq!(next(&mut reader), data("a"));
    advance(IDLE).await;
    assert!(feed.is_dropped());
    // The same as of a body that panics when its reader drops it.
    rig.assert_ended((0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_that_reads_on_is_never_cut() {
    let rig = served(ServerSettings::default());
    let mut reader = rig.read(&frames(100)).await;
    for _ in 0..100 {
        assert_eq!(next(&mut reader), data("a"));
        rig.assert_under_way();
        sleep(SECOND * 20).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stall_of_the_runtime_cuts_no_reader_that_polls_after_it() {
    for waits in [true, false] {
        for stall in [IDLE, IDLE + MS * 1_005, IDLE * 10] {
            let rig = served(ServerSettings { idle: Some(IDLE), ..Default::default() });
            let feed = frames(1);
            let mut reader = rig.read(&feed).await;
            assert_eq!(next(&mut reader), data("a"));
            if waits {
                assert!(next(&mut reader).is_pending());
            }
            // The timers fire late, and before the reader can run.
            advance(MS * 50 + stall).await;
            rig.assert_under_way();
            feed.push([Step::Data("b")]);
            assert_eq!(next(&mut reader), data("b"));
            // There is only one second chance.
            advance(IDLE + MS * 50).await;
            rig.assert_under_way();
            advance(SECOND).await;
            rig.assert_ended((1, 0));
            assert!(feed.is_dropped());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_panics_in_a_read_has_not_ended() {
    let rig = served(ServerSettings { idle: Some(IDLE), ..Default::default() });
    let mut reader = rig.read(&Feed::new([Step::Panic, Step::Fail])).await;
    assert!(catch_unwind(AssertUnwindSafe(|| next(&mut reader))).is_err());
    assert!(!reader.is_end_stream());
    assert_eq!(next(&mut reader), Poll::Ready(Got::Broken));
    rig.assert_ended((1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_ends_before_the_outer_layers_have_joined_it_ends_in_the_same_way() {
    let layers = Layers::new(window());
    let stack = Stack::new().bulkhead(layers.slots.clone()).circuit_breaker(layers.breaker.clone());
    let layer = HttpServerLayer::builder(stack).limit(SECOND).body_deadline().build().unwrap();
    let feed = frames(2);
    let body = feed.clone();
    let service = layer.layer(service_fn(move |_: Ask| {
        // The time passes, and no timer can fire before the handler returns.
        assert!(task::spawn(advance(SECOND)).poll().is_pending());
        ready(Ok::<_, Infallible>(Response::new(body.body())))
    }));
    let response = service.oneshot(over_http2()).await.unwrap();
    let breaker = layers.breaker.handle().snapshot();
    assert_eq!((breaker.calls(), breaker.failures()), (1, 0));
    assert_eq!(layers.slots.handle().in_flight(), 0);
    assert!(feed.is_dropped());
    drop(response);
    assert_eq!(layers.breaker.handle().snapshot().calls(), 1);
}

/// Returns a reader that has read one frame, of a server with these settings.
async fn reading(settings: ServerSettings) -> (Feed, Spawn<Reader>) {
    let feed = frames(9);
    let mut reader = served(settings).read(&feed).await;
    assert_eq!(next(&mut reader), data("a"));
    (feed, reader)
}

fn settings() -> [ServerSettings; 2] {
    [ServerSettings::default(), ServerSettings { idle: Some(UNREAD), ..Default::default() }]
}

#[test]
fn without_timers_a_body_works_without_a_watch() {
    for settings in settings() {
        let runtime = Builder::new_current_thread().build().unwrap();
        let (_, mut reader) = runtime.block_on(reading(settings));
        assert_eq!(runtime.block_on(async { next(&mut reader) }), data("a"));
        assert_eq!(next(&mut reader), data("a"));
        // Nor does it need a runtime.
        let Poll::Ready((_, mut reader)) = task::spawn(reading(settings)).poll() else {
            panic!("the handler is ready");
        };
        assert_eq!(next(&mut reader), data("a"));
    }
}

/// Reads on after the runtime, whose timers did not run for this long, is gone.
fn outlive(settings: ServerSettings, away: Duration) {
    let mut runtime = Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    let (feed, mut reader) = runtime.block_on(reading(settings));
    runtime.block_on(async {
        // Polled once, which leaves the timers to the end of the runtime.
        assert!(task::spawn(advance(UNREAD / 2)).poll().is_pending());
        assert_eq!(next(&mut reader), data("a"));
        assert!(task::spawn(advance(away)).poll().is_pending());
    });
    drop(runtime);
    if away == UNREAD && settings.idle.is_some() {
        assert!(feed.is_dropped());
        assert_eq!(next(&mut reader), timed_out("idle response body", UNREAD));
    } else {
        assert_eq!(next(&mut reader), data("a"));
        assert_eq!(next(&mut reader), data("a"));
    }
}

#[test]
fn a_body_outlives_the_runtime_of_its_watch_and_leaves_nothing() {
    let left = |settings, away| {
        outlive(settings, away);
        allocation_counter::measure(|| outlive(settings, away)).count_current
    };
    let unwatched = ServerSettings { unread: Some(Duration::MAX), ..Default::default() };
    for settings in settings() {
        for away in [Duration::ZERO, UNREAD] {
            // A test on another thread may change what `tracing` holds. A leak is there each time.
            let leaves_nothing = || left(settings, away) == left(unwatched, away);
            assert!((0..20).any(|_| leaves_nothing()), "{settings:?}, {away:?}");
        }
        // The test captures the text of a caught panic, and a count would include it.
        for away in [UNREAD / 2, UNREAD * 3] {
            outlive(settings, away);
        }
    }
}
