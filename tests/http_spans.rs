//! Tests of the spans of a stack around an HTTP client.
//!
//! This is a separate file, because other tests without a subscriber could disable the spans.
#![cfg(feature = "http")]

mod capture;
mod http_support;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    time::Duration,
};

use buttress::{
    Deadline, Stack,
    bulkhead::BulkheadLayer,
    circuit_breaker::CircuitBreakerLayer,
    context::Attempt,
    http::{HttpClientBuilder, HttpClientLayer},
    telemetry::field,
    testing::task::Spawned,
};
use http::Request;
use tokio::time::advance;
use tower::ServiceExt;
use tracing::{
    Span, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{layer::Context, registry::LookupSpan};

use self::{capture::Capture, http_support::*};

/// The recorded resends, each with the name of its span.
#[derive(Clone, Default)]
struct Resends(Arc<Mutex<Vec<(String, u64)>>>);

impl<S> tracing_subscriber::Layer<S> for Resends
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, ctx: Context<'_, S>) {
        struct Resend(Option<u64>);
        impl Visit for Resend {
            fn record_u64(&mut self, field: &Field, value: u64) {
                if field.name() == field::RESEND_COUNT {
                    self.0 = Some(value);
                }
            }
            fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
        }
        let mut resend = Resend(None);
        values.record(&mut resend);
        let name = ctx.span(id).unwrap().name().to_owned();
        self.0.lock().unwrap().extend(resend.0.map(|resend| (name, resend)));
    }
}

#[tokio::test(start_paused = true)]
async fn the_span_of_each_attempt_but_the_first_has_the_number_of_the_resend() {
    let resends = Resends::default();
    let _guard = capture::subscribe(resends.clone());
    for protocol in BOTH {
        let failure = match protocol {
            Protocol::Http => answer(503, &[]),
            Protocol::Grpc => trailers_only(14, &[]),
        };
        let upstream = Upstream::saying([failure]);
        let stack = Stack::new().retry(retry(2).build().unwrap()).http();
        let client = stack.service::<_, Request<Body>, _>(upstream);
        client.oneshot(protocol.request(&[])).await.unwrap();
        let recorded = std::mem::take(&mut *resends.0.lock().unwrap());
        assert_eq!(recorded, [("attempt".to_owned(), 1), ("attempt".to_owned(), 2)]);
    }
}

/// Returns the snapshot of a call whose attempts all have this response.
async fn call(protocol: Protocol, response: Answer) -> Vec<String> {
    let (capture, _guard) = Capture::start();
    let stack = Stack::new().name("orders").retry(retry(1).build().unwrap()).http();
    let client = stack.service::<_, Request<Body>, _>(Upstream::saying([response]));
    drop(client.oneshot(protocol.request(&[])).await.unwrap());
    capture.snapshot()
}

#[tokio::test(start_paused = true)]
async fn a_final_failure_is_one_although_its_result_is_ok() {
    for (protocol, response, outcome, cause) in [
        (Protocol::Http, answer(503, &[]), "transient", "503"),
        (Protocol::Http, answer(429, &[]), "overloaded", "429"),
        (Protocol::Grpc, trailers_only(14, &[]), "transient", "UNAVAILABLE"),
        (Protocol::Grpc, trailers_only(4, &[]), "timed_out", "DEADLINE_EXCEEDED"),
    ] {
        let failed = format!("error.type={cause} otel.status_code=ERROR");
        assert_eq!(
            call(protocol, response).await,
            [
                format!(
                    "call buttress.stack=orders buttress.outcome=failure {failed} \
                     buttress.attempts=2"
                ),
                format!("call > attempt attempt=1 buttress.outcome={outcome} {failed}"),
                format!("call > attempt attempt=2 buttress.outcome={outcome} {failed}"),
                "WARN: call > retrying call".to_owned(),
                "WARN: call > retries exhausted".to_owned(),
            ]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_no_failure_for_the_service_is_a_success() {
    assert_eq!(
        call(Protocol::Http, answer(404, &[])).await,
        [
            "call buttress.stack=orders buttress.outcome=success",
            "call > attempt attempt=1 buttress.outcome=success",
        ]
    );
    // The code of gRPC says that the call failed, whoever is at fault.
    assert_eq!(
        call(Protocol::Grpc, trailers_only(5, &[])).await,
        [
            "call buttress.stack=orders buttress.outcome=failure error.type=NOT_FOUND \
             otel.status_code=ERROR",
            "call > attempt attempt=1 buttress.outcome=permanent error.type=NOT_FOUND \
             otel.status_code=ERROR",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn the_cause_of_an_error_is_its_kind_and_never_its_text() {
    let upstream = Upstream::new(|_| async {
        let secret = "the password is 1234";
        Err(std::io::Error::new(std::io::ErrorKind::ConnectionReset, secret))
    });
    let (capture, _guard) = Capture::start();
    let client = Stack::new().http().service::<_, Request<Body>, _>(upstream);
    client.oneshot(Protocol::Http.request(&[])).await.unwrap_err();
    assert_eq!(
        capture.snapshot(),
        ["call buttress.outcome=failure error.type=reset otel.status_code=ERROR"]
    );
}

// The hook of an attempt.

/// Returns a client with two retries, whose attempts are numbered by the hook.
fn hooked(http: HttpClientBuilder) -> HttpClientLayer {
    let number = || Attempt::current().map_or(0, |attempt| attempt.number());
    http.on_send_fn(move |headers| {
        let within = Span::current().metadata().map_or("no span", |span| span.name());
        let hop = headers.contains_key("x-envoy-attempt-count")
            || headers.contains_key("grpc-previous-rpc-attempts");
        put(headers, "x-hook", format!("{} in {within}, hop: {hop}", number()));
    })
    .build()
    .unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_hook_runs_for_each_attempt_in_its_span() {
    let (_capture, _guard) = Capture::start();
    for protocol in BOTH {
        let failure = match protocol {
            Protocol::Http => answer(503, &[]),
            Protocol::Grpc => trailers_only(14, &[]),
        };
        let upstream = Upstream::saying([failure]);
        let retrying = Stack::new().retry(retry(2).build().unwrap());
        let client = retrying
            .http_client(hooked(HttpClientLayer::builder()))
            .service::<_, Request<Body>, _>(upstream.clone());
        client.oneshot(protocol.request(&[])).await.unwrap();
        assert_eq!(
            upstream.lines("x-hook").concat(),
            ["1 in attempt, hop: false", "2 in attempt, hop: true", "3 in attempt, hop: true"]
        );
    }
    // Without a retry it is in the span of the call. It does not depend on the headers of the hop.
    let upstream = Upstream::saying([answer(200, &[])]);
    let client = Stack::new()
        .http_client(hooked(HttpClientLayer::builder().without_hop_headers()))
        .service::<_, Request<Body>, _>(upstream.clone());
    client.oneshot(Protocol::Http.request(&[])).await.unwrap();
    assert_eq!(upstream.lines("x-hook").concat(), ["0 in call, hop: false"]);
}

#[tokio::test(start_paused = true)]
async fn the_hook_does_not_run_for_an_attempt_that_is_not_sent() {
    let http = HttpClientLayer::builder().on_send_fn(|_| unreachable!("it is too late"));
    let stack = Stack::new().http_client(http.build().unwrap());
    let upstream = Upstream::saying([answer(200, &[])]);
    let client = stack.service::<_, Request<Body>, _>(upstream.clone());
    let late = Deadline::scope(Deadline::after(Duration::ZERO), async {
        client.oneshot(Protocol::Http.request(&[])).await
    });
    assert!(late.await.unwrap().is_err());
    assert_eq!(upstream.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_panics_leaves_nothing_behind() {
    for (panics_at, sent) in [(1, 0), (2, 1)] {
        let (capture, _guard) = Capture::start();
        let http = HttpClientLayer::builder().on_send_fn(move |_| {
            let number = Attempt::current().map_or(0, |attempt| attempt.number());
            assert!(number != panics_at, "a hook panics");
        });
        let (bulkhead, breaker) = (BulkheadLayer::default(), CircuitBreakerLayer::new());
        let (slots, state) = (bulkhead.handle(), breaker.handle());
        let stack = Stack::new()
            .total_timeout(Duration::from_secs(5))
            .retry(retry(2).build().unwrap())
            .bulkhead(bulkhead)
            .circuit_breaker(breaker)
            .http_client(http.build().unwrap());
        let upstream = Upstream::saying([answer(503, &[])]);
        let client = stack.service::<_, Request<Body>, _>(upstream.clone());
        let mut call = Spawned::new(client.oneshot(Protocol::Http.request(&[])));
        let panic = catch_unwind(AssertUnwindSafe(|| call.poll()));
        let panic = if panic.is_ok() {
            advance(PAUSE).await;
            catch_unwind(AssertUnwindSafe(|| call.poll()))
        } else {
            panic
        };
        assert!(panic.is_err());
        drop(call);
        assert_eq!((upstream.calls(), slots.in_flight()), (sent, 0));
        assert_eq!(state.snapshot().failures(), panics_at as u64);
        assert_eq!(Attempt::current(), None);
        let snapshot = capture.snapshot();
        let panicked = "buttress.outcome=panicked error.type=panic otel.status_code=ERROR";
        assert!(snapshot[0].starts_with(&format!("call {panicked}")), "{snapshot:?}");
        let last = format!("call > attempt attempt={panics_at} {panicked}");
        assert_eq!(snapshot[panics_at as usize], last);
    }
}
