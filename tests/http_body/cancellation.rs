use std::cell::{Cell, RefCell};

use buttress::testing::cancel::CancelHarness;
use tokio::time::advance;

use super::*;

/// Calls and reads to the end, and is dropped before each poll that this takes.
///
/// Between the polls time passes, and a step is fed while there are any. Returns the largest
/// number of polls that it took.
async fn dropped_at_every_poll(
    rig: &Rig,
    steps: &[&[Step]],
    time: Duration,
    streams: bool,
) -> usize {
    let feed = RefCell::new(Feed::default());
    let fed = Cell::new(0);
    let make = || {
        let fresh = Feed::default();
        feed.replace(fresh.clone());
        fed.set(0);
        async move {
            let mut reader =
                if streams { rig.stream(&fresh).await } else { rig.read(&fresh).await };
            while let Some(Ok(_)) = reader.frame().await {}
        }
    };
    let pass = async || {
        advance(time).await;
        if let Some(step) = steps.get(fed.replace(fed.get() + 1)) {
            feed.borrow().push(step.iter().cloned());
        }
    };
    CancelHarness::new(make)
        .run_with(pass, |polls| {
            assert_eq!(rig.in_flight(), 0);
            assert_eq!(rig.spans.open(), (0, true));
            assert!(polls == 0 || feed.borrow().is_dropped());
        })
        .await
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_at_any_point_of_its_body_leaves_nothing_behind() {
    let (message, end) = ([Step::Data("message")], [grpc_status("0"), Step::Closed]);
    let steps: [&[Step]; 3] = [&message, &message, &end];
    for make in [Rig::client, Rig::server, Rig::nested] {
        for streams in [false, true] {
            let rig = make();
            assert_eq!(dropped_at_every_poll(&rig, &steps, MS, streams).await, 4);
            // Each completed body counts as one call. The dropped ones do not count.
            assert_eq!(rig.verdict(), (1, 0));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_on_its_way_to_a_limit_leaves_nothing_behind() {
    for make in [Rig::client, Rig::server, Rig::nested] {
        let rig = make();
        let polls = dropped_at_every_poll(&rig, &[&[Step::Data("a")]], IDLE / 4, false).await;
        assert_eq!((polls, rig.in_flight()), (6, 0));
        // The one whose body was idle for too long. Those who left before say nothing.
        assert_eq!(rig.verdict(), (1, 1));
    }
}
