//! Each call through a retry counts once, when it has its final result.

use buttress::{
    Deadline, Stack,
    retry::{Replay, RetryLayer},
    telemetry::Registry,
    testing::{Step, task::Spawned},
};
use tower::{Layer, ServiceExt};

use super::{
    DOWN, MS, SECOND, WELL, breaker, call, counted, down, expected, flaky, hangs, orders, retry,
};

/// Returns the counts of calls, without those that need the number of all attempts.
fn calls(registry: &Registry) -> Vec<(String, f64)> {
    counted(registry).into_iter().filter(|(name, _)| name.starts_with("retry.calls")).collect()
}

fn calls_are(registry: &Registry, counts: &[&str]) {
    assert_eq!(calls(registry), expected(counts).into_iter().collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn each_call_with_a_final_result_counts_once_however_it_ends() {
    let registry = Registry::new();
    let layer = retry().retries(3).build().unwrap().register(&registry);
    for failures in 0..6 {
        let steps = (0..failures).map(|_| Step::Respond(DOWN));
        let _ = call(&layer, flaky(steps)).await;
    }
    calls_are(
        &registry,
        &[
            "retry.calls false success",
            "retry.calls true failure: 2",
            "retry.calls true success: 3",
        ],
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_cut_does_not_count() {
    let registry = Registry::new();
    let stack = orders(&registry).retry(retry().build().unwrap()).total_timeout(SECOND);
    let _ = call(&stack, hangs()).await;
    let _ = call(&stack, flaky([Step::Respond(DOWN), Step::Hang])).await;
    for polls in 0..4 {
        let mut dropped = Spawned::new(call(&stack, flaky([Step::Respond(DOWN), Step::Hang])));
        for _ in 0..polls {
            assert!(dropped.poll().is_pending());
            tokio::time::advance(MS).await;
        }
    }
    calls_are(&registry, &[]);
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_a_layer_beneath_rejects_counts_once() {
    let registry = Registry::new();
    let stack = Stack::new().retry(retry().retries(3).build().unwrap());
    let stack = stack.circuit_breaker(breaker().build().unwrap()).register(&registry);
    let _keeps = stack.layer(down());
    let _ = call(&stack, down()).await;
    calls_are(&registry, &["retry.calls true failure"]);
    // The circuit is open, so this one is not retried.
    let _ = call(&stack, down()).await;
    calls_are(&registry, &["retry.calls false failure", "retry.calls true failure"]);
}

#[tokio::test(start_paused = true)]
async fn a_retry_whose_service_fails_to_be_ready_counts_once() {
    let registry = Registry::new();
    let layer = retry().build().unwrap().register(&registry);
    let broken =
        flaky([Step::Respond(DOWN), Step::FailReadiness(buttress::Error::Service("dead"))]);
    assert_eq!(call(&layer, broken).await, DOWN);
    calls_are(&registry, &["retry.calls true failure"]);
}

/// A policy that counts how often it is asked for a reason.
struct Never(std::sync::Arc<std::sync::atomic::AtomicUsize>);

impl Replay<()> for Never {
    fn replay(&self, (): &()) -> Option<()> {
        None
    }

    fn replay_unsent(&self, (): &()) -> Option<()> {
        Some(())
    }

    fn reason(&self, (): &()) -> &'static str {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        "a reason of my own"
    }
}

#[tokio::test(start_paused = true)]
async fn a_reason_is_computed_for_an_observer_and_otherwise_only_counted() {
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let registry = Registry::new();
    let layer = RetryLayer::new(Never(asked.clone())).register(&registry);
    let _ = call(&layer, down()).await;
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 0);
    let seen = super::observers::Seen::observe(&registry);
    let _ = call(&layer, down()).await;
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert_eq!(seen.texts(), ["retry NotRetried a reason of my own"]);
    assert_eq!(
        counted(&registry),
        expected(&["retry.calls false failure: 2", "retry.ended not_replayable: 2"])
    );
}

#[cfg(feature = "http")]
mod streams {
    use std::convert::Infallible;

    use super::{super::bodies::Bare, *};
    use buttress::http::ReplaySafe;
    use http::{Request, Response};
    use http_body_util::{BodyExt, Empty};
    use hyper::body::Bytes;
    use tower::service_fn;

    /// Calls a service that fails so often before it responds with this body, and reads the body.
    async fn read(registry: &Registry, failures: u32, body: Bare) {
        let retry = RetryLayer::builder(ReplaySafe::new()).without_budget();
        let stack = orders(registry).retry(retry.build().unwrap()).http();
        let sent = std::sync::atomic::AtomicU32::new(0);
        let sent = std::sync::Arc::new(sent);
        let client = stack.service(service_fn(move |_: Request<Empty<Bytes>>| {
            let number = sent.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            async move {
                let status = if number < failures { 503 } else { 200 };
                let body = if number < failures { Bare::Ends } else { body };
                Ok::<_, Infallible>(Response::builder().status(status).body(body).unwrap())
            }
        }));
        let response = client.oneshot(Request::new(Empty::new())).await.unwrap();
        assert_eq!(calls(registry), [], "the body has not ended");
        let mut reads = Spawned::new(response.into_body().collect());
        let _ = reads.poll();
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_streams_counts_at_the_end_of_its_body() {
        for (failures, body, counts) in [
            (0, Bare::Breaks, &["retry.calls false failure"][..]),
            (1, Bare::Ends, &["retry.calls true success"]),
            (1, Bare::Breaks, &["retry.calls true failure"]),
            // The reader leaves.
            (0, Bare::Hangs, &[]),
            (1, Bare::Hangs, &[]),
        ] {
            let registry = Registry::new();
            let _kept = super::super::retry().name("orders").build().unwrap();
            let _keeps = orders(&registry).retry(super::super::retry().build().unwrap());
            let _keeps = Layer::layer(&_keeps, down());
            read(&registry, failures, body).await;
            calls_are(&registry, counts);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_ends_a_retry_is_counted_by_its_reason() {
    let registry = Registry::new();
    let layer = retry().retries(3).build().unwrap().register(&registry);
    let inner = flaky([Step::Respond(DOWN), Step::Respond(DOWN)]);
    let called = Deadline::scope(Deadline::after(2 * MS), call(&layer, inner)).await;
    assert_ne!(called.unwrap(), WELL);
    assert_eq!(
        counted(&registry),
        expected(&[
            "attempt.resends",
            "retry.delay",
            "retry.calls true failure",
            "retry.ended deadline",
        ])
    );
}
