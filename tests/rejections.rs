//! What each rejection says of itself, and what a server answers with it.
#![cfg(feature = "http")]

mod http_support;

use std::{convert::Infallible, time::Duration};

use buttress::{
    BulkheadFull, CircuitOpen, DeadlineExceeded, Error, IdempotencyReason, IdempotencyRefused,
    NotReady, QueueTimedOut, RateLimited, Rejection, TimedOut,
    http::{ResponseBody, ServerLayer, idempotency::NotStarted, server::ServerBody},
    idempotency::Verdict,
};
use http::{Request, Response};
use tower::{Layer, ServiceExt, layer::layer_fn, service_fn};

use self::http_support::*;

const TIME: Duration = Duration::from_millis(2_500);

/// A rejection, and what it says.
struct Row {
    rejection: Rejection,
    kind: &'static str,
    nothing_began: bool,
    status: u16,
    code: u16,
    retry_after: Option<Duration>,
    /// `Retry-After` and the pushback of gRPC.
    come_back: Option<(&'static str, &'static str)>,
}

/// Written out by hand, from what each rejection said before there was a table in the crate.
fn rows() -> Vec<Row> {
    use IdempotencyReason::*;
    let ours = |reason, told| Rejection::from(IdempotencyRefused::new("a", reason, told));
    let time = Some(TIME);
    let told = Some(("3", "2500"));
    let one = Some(("1", "1000"));
    let rows: [(Rejection, &'static str, bool, u16, u16, _, _); 21] = [
        (TimedOut::new("a", TIME).into(), "timed_out", false, 504, 4, None, None),
        (DeadlineExceeded::new("a").into(), "deadline_exceeded", true, 504, 4, None, None),
        (CircuitOpen::new("a", time).into(), "circuit_open", true, 503, 14, time, told),
        (CircuitOpen::new("a", None).into(), "circuit_open", true, 503, 14, None, None),
        (BulkheadFull::new("a", 1).into(), "bulkhead_full", true, 503, 8, None, one),
        (QueueTimedOut::new("a", TIME).into(), "queue_timed_out", true, 503, 8, None, one),
        (NotReady::new("a", TIME).into(), "not_ready", false, 503, 14, None, None),
        (RateLimited::new("a", time).into(), "rate_limited", true, 429, 8, time, told),
        (RateLimited::new("a", None).into(), "rate_limited", true, 429, 8, None, None),
        (ours(KeyMissing, time), "idempotency_key_missing", false, 400, 3, time, None),
        (ours(KeyMalformed, time), "idempotency_key_malformed", false, 400, 3, time, None),
        (ours(ScopeMissing, time), "idempotency_scope_missing", false, 500, 13, time, None),
        (ours(BodyTooLarge, time), "idempotency_body_too_large", false, 413, 8, time, None),
        (ours(BodyIncomplete, time), "idempotency_body_incomplete", false, 408, 4, time, None),
        (ours(Mismatch, time), "idempotency_mismatch", false, 422, 3, time, None),
        (ours(InFlight, time), "idempotency_in_flight", false, 409, 10, time, told),
        (ours(InFlight, None), "idempotency_in_flight", false, 409, 10, None, None),
        (ours(NotReplayable, time), "idempotency_not_replayable", false, 409, 9, time, None),
        (ours(Unknown, time), "idempotency_unknown", false, 409, 9, time, None),
        (ours(StoreUnavailable, time), "idempotency_store_unavailable", false, 503, 14, time, one),
        (ours(Full, time), "idempotency_full", false, 503, 14, time, one),
    ];
    let row = |(rejection, kind, nothing_began, status, code, retry_after, come_back)| Row {
        rejection,
        kind,
        nothing_began,
        status,
        code,
        retry_after,
        come_back,
    };
    rows.map(row).into()
}

/// Answers as if its stack had rejected every request.
async fn served(
    protocol: Protocol,
    rejection: Rejection,
) -> Response<ServerBody<ResponseBody<Body>>> {
    let rejecting = layer_fn(move |_| {
        let rejection = rejection.clone();
        service_fn(move |_: Request<Body>| {
            let rejected = Err(Error::rejected(rejection.clone()));
            async { rejected as Result<Response<ResponseBody<Body>>, Error<Infallible>> }
        })
    });
    let handler = service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(answer(200, &[])) });
    ServerLayer::around(rejecting).layer(handler).oneshot(protocol.request(&[])).await.unwrap()
}

#[test]
fn each_rejection_says_what_it_is_and_when_to_come_back() {
    for row in rows() {
        let rejection = &row.rejection;
        assert_eq!((rejection.name(), rejection.kind()), ("a", row.kind));
        assert_eq!(rejection.retry_after(), row.retry_after, "{rejection:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_answers_each_rejection_with_its_statuses_and_time_to_come_back() {
    for row in rows() {
        let rejection = &row.rejection;
        let again = row.come_back;
        let http = served(Protocol::Http, rejection.clone()).await;
        assert_eq!(http.status(), row.status, "{rejection:?}");
        let retry_after = lines(http.headers(), "retry-after");
        assert_eq!(retry_after, Vec::from_iter(again.map(|(http, _)| http)), "{rejection:?}");

        let grpc = served(Protocol::Grpc, rejection.clone()).await;
        assert_eq!(grpc.status(), 200, "{rejection:?}");
        assert_eq!(lines(grpc.headers(), "grpc-status"), [row.code.to_string()], "{rejection:?}");
        assert_eq!(lines(grpc.headers(), "grpc-message"), [row.kind]);
        let pushback = lines(grpc.headers(), "grpc-retry-pushback-ms");
        assert_eq!(pushback, Vec::from_iter(again.map(|(_, grpc)| grpc)), "{rejection:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_is_released_where_nothing_began() {
    for row in rows() {
        let error = Error::<Infallible>::rejected(row.rejection.clone());
        let expected = if row.nothing_began { Verdict::NotStarted } else { Verdict::Unknown };
        assert_eq!(Verdict::of_error(&error), expected, "{error:?}");
        for protocol in BOTH {
            let response = served(protocol, row.rejection.clone()).await;
            let marked = response.extensions().get::<NotStarted>().is_some();
            assert_eq!(marked, row.nothing_began, "{error:?}");
        }
    }
}

#[cfg(feature = "tonic")]
#[test]
fn a_status_of_tonic_has_the_code_of_the_rejection() {
    for row in rows() {
        let status = tonic::Status::from(row.rejection.clone());
        assert_eq!(status.code(), tonic::Code::from(i32::from(row.code)), "{:?}", row.rejection);
        assert_eq!(status.message(), row.rejection.to_string());
    }
}
