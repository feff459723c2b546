//! Tests of a waker that panics while a response ends.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::{Context, Wake, Waker},
};

use super::*;

struct Panicking;

impl Wake for Panicking {
    fn wake(self: Arc<Self>) {
        panic!("a waker panics");
    }
}

/// Ends a response that holds a slot of two bulkheads, with a waiting call whose waker panics.
///
/// The call waits for the inner bulkhead. Returns the number of taken slots of each bulkhead
/// then, and after that call is dropped.
async fn slots_after(end: impl FnOnce(&Feed, Spawn<Reader>)) -> [(u32, u32); 2] {
    let inner = BulkheadLayer::builder().max_concurrent(1).queue(1, SECOND).build().unwrap();
    let outer = BulkheadLayer::default();
    let answers = Answers::default();
    let queued = Stack::new().bulkhead(inner.clone()).http().service(handler!(answers, Infallible));
    let whole = Stack::new().bulkhead(outer.clone()).http().layer(queued.clone());

    let feed = Feed::new([Step::Data("first")]);
    *answers.0.lock().unwrap() = Some(Response::new(feed.body()));
    let response = whole.oneshot(Ask::default()).await.unwrap();
    let mut reader = task::spawn(response.into_body().map_err(flatten).boxed_unsync());
    assert_eq!(next(&mut reader), data("first"));
    let taken = || (outer.handle().in_flight(), inner.handle().in_flight());
    assert_eq!(taken(), (1, 1));

    let mut waiting = Box::pin(queued.oneshot(Ask::default()));
    let waker = Waker::from(Arc::new(Panicking));
    assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    assert!(catch_unwind(AssertUnwindSafe(|| end(&feed, reader))).is_err());
    let woken = taken();
    drop(waiting);
    [woken, taken()]
}

#[tokio::test(start_paused = true)]
async fn a_waker_that_panics_costs_no_slot() {
    // The waiting call has the slot of the inner bulkhead until it is dropped.
    let expected = [(0, 1), (0, 0)];
    let read_to_the_end = |feed: &Feed, mut reader: Spawn<Reader>| {
        feed.push([Step::End]);
        let _ = next(&mut reader);
    };
    assert_eq!(slots_after(read_to_the_end).await, expected);
    assert_eq!(slots_after(|_, reader| drop(reader)).await, expected);
}
