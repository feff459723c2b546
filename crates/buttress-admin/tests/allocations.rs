//! The memory that requests take.

use allocation_counter::measure;
use buttress::{Stack, retry::ReplayClones, telemetry::Registry};
use buttress_admin::Admin;
use bytes::Bytes;
use futures::FutureExt;
use http::Request;
use http_body_util::Empty;
use tower::ServiceExt;

/// The bytes that each of 100 requests takes while it waits.
fn bytes_while_waiting(stacks: usize) -> i64 {
    let registry = Registry::new();
    let stack =
        |number: usize| Stack::standard(ReplayClones).name(number.to_string()).register(&registry);
    let _stacks: Vec<_> = (0..stacks).map(stack).collect();
    let admin = Admin::new(&registry);
    let wait = || {
        let request = Request::get("/state.json").header("host", "localhost");
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let mut response = Box::pin(admin.clone().oneshot(request));
        assert!(response.as_mut().now_or_never().is_none(), "it takes two readings");
        response
    };
    // The first reading is kept for all.
    let _first = wait();
    let mut waiting = Vec::with_capacity(100);
    measure(|| waiting.extend((0..100).map(|_| wait()))).bytes_current / 100
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_the_second_reading_keeps_no_numbers() {
    let few = bytes_while_waiting(1);
    let many = bytes_while_waiting(20);
    assert!(many < 2 * few, "{few} bytes for one stack, {many} for 20");
}
