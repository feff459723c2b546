//! Tests of each rejection, and of the response that a server makes of it.
#![cfg(feature = "http")]

mod http_support;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use buttress::{
    BoxError, CarryRejection, Error, Fault, Outcome, Rejection,
    circuit_breaker::{CircuitBreakerLayer, State},
    error::{
        BulkheadFull, CircuitOpen, DeadlineExceeded, Elapsed, IdempotencyReason,
        IdempotencyRejected, LoadShed, NoEndpoint, NotReady, QueueTimedOut, RateLimited,
        SharedFailure, SwitchedOff, TimedOut,
    },
    http::{
        BodyError, HttpServerLayer, ResponseBody, idempotency::NotStarted, server::HttpServerBody,
    },
    idempotency::{RunOutcome, store::StoreError},
    retry::{ReplayClones, RetryLayer},
};
use http::{Request, Response};
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt, layer::layer_fn, service_fn};

use self::http_support::*;

const TIME: Duration = Duration::from_millis(2_500);

/// A rejection, and its properties.
struct Row {
    rejection: Rejection,
    kind: &'static str,
    nothing_began: bool,
    is_unavailable: bool,
    status: u16,
    code: u16,
    retry_after: Option<Duration>,
    /// The values of `Retry-After` and of the gRPC pushback.
    come_back: Option<(&'static str, &'static str)>,
}

/// Returns the expected rows. They are written by hand, from before the crate had a table.
fn rows() -> Vec<Row> {
    use IdempotencyReason::*;
    let due = Some(TIME);
    let of = |reason| Rejection::from(IdempotencyRejected::new("a", reason, due));
    let bare = |reason| Rejection::from(IdempotencyRejected::new("a", reason, None));
    let told = Some(("3", "2500"));
    let one = Some(("1", "1000"));
    let shared = |outcome| Rejection::from(SharedFailure::new("a", outcome, "reset"));
    let failed = |fault| shared(Outcome::Failure(fault));
    let busy = |retry_after| failed(Fault::Overloaded { retry_after });
    let at_work = failed(Fault::InProgress { retry_after: due });
    let rows: [(Rejection, &'static str, bool, bool, u16, u16, _, _); 32] = [
        (TimedOut::new("a", TIME).into(), "timed_out", false, true, 504, 4, None, None),
        (DeadlineExceeded::new("a").into(), "deadline_exceeded", true, true, 504, 4, None, None),
        (CircuitOpen::new("a", due).into(), "circuit_open", true, true, 503, 14, due, told),
        (CircuitOpen::new("a", None).into(), "circuit_open", true, true, 503, 14, None, None),
        (BulkheadFull::new("a", 1).into(), "bulkhead_full", true, true, 503, 8, None, one),
        (QueueTimedOut::new("a", TIME).into(), "queue_timed_out", true, true, 503, 8, None, one),
        (SwitchedOff::new("a").into(), "switched_off", true, true, 503, 14, None, None),
        (NotReady::new("a", TIME).into(), "not_ready", false, true, 503, 14, None, None),
        (NoEndpoint::new("a").into(), "no_endpoint", true, true, 503, 14, None, None),
        (RateLimited::new("a", due).into(), "rate_limited", true, true, 429, 8, due, told),
        (RateLimited::new("a", None).into(), "rate_limited", true, true, 429, 8, None, None),
        (LoadShed::new("a").into(), "load_shed", true, true, 503, 8, None, one),
        (Elapsed::new("a").into(), "elapsed", false, true, 504, 4, None, None),
        (of(KeyMissing), "idempotency_key_missing", false, false, 400, 3, due, None),
        (of(KeyMalformed), "idempotency_key_malformed", false, false, 400, 3, due, None),
        (of(ScopeMissing), "idempotency_scope_missing", false, false, 500, 13, due, None),
        (of(BodyTooLarge), "idempotency_body_too_large", false, false, 413, 8, due, None),
        (of(BodyIncomplete), "idempotency_body_incomplete", false, false, 408, 4, due, None),
        (of(Mismatch), "idempotency_mismatch", false, false, 422, 3, due, None),
        (of(InFlight), "idempotency_in_flight", false, false, 409, 10, due, told),
        (bare(InFlight), "idempotency_in_flight", false, false, 409, 10, None, None),
        (of(NotReplayable), "idempotency_not_replayable", false, false, 409, 9, due, None),
        (of(Unknown), "idempotency_unknown", false, false, 409, 9, due, None),
        (of(StoreUnavailable), "idempotency_store_unavailable", false, true, 503, 14, due, one),
        (of(Full), "idempotency_full", false, true, 503, 14, due, one),
        (failed(Fault::Transient), "shared_failure", false, true, 502, 14, None, None),
        (failed(Fault::TimedOut), "shared_failure", false, true, 504, 4, None, None),
        (busy(due), "shared_failure", false, true, 503, 14, due, told),
        (busy(None), "shared_failure", false, true, 503, 14, None, None),
        (at_work, "shared_failure", false, false, 409, 10, due, told),
        (failed(Fault::Permanent), "shared_failure", false, false, 502, 13, None, None),
        (shared(Outcome::Ignored), "shared_failure", false, false, 502, 13, None, None),
    ];
    let row =
        |(rejection, kind, nothing_began, is_unavailable, status, code, retry_after, come_back)| {
            Row {
                rejection,
                kind,
                nothing_began,
                is_unavailable,
                status,
                code,
                retry_after,
                come_back,
            }
        };
    rows.map(row).into()
}

/// Responds as if the stack had rejected every request.
async fn served(
    protocol: Protocol,
    rejection: Rejection,
) -> Response<HttpServerBody<ResponseBody<Body>>> {
    let rejecting = layer_fn(move |_| {
        let rejection = rejection.clone();
        service_fn(move |_: Request<Body>| {
            let rejected = Err(Error::rejected(rejection.clone()));
            async { rejected as Result<Response<ResponseBody<Body>>, Error<Infallible>> }
        })
    });
    let handler = service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(answer(200, &[])) });
    HttpServerLayer::around(rejecting).layer(handler).oneshot(protocol.request(&[])).await.unwrap()
}

#[test]
fn each_rejection_says_what_it_is_and_what_to_make_of_it() {
    for row in rows() {
        let rejection = &row.rejection;
        assert_eq!((rejection.name(), rejection.kind()), ("a", row.kind));
        assert_eq!(rejection.retry_after(), row.retry_after, "{rejection:?}");
        assert_eq!(rejection.nothing_began(), row.nothing_began, "{rejection:?}");
        assert_eq!(rejection.is_unavailable(), row.is_unavailable, "{rejection:?}");
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
        let expected = if row.nothing_began { RunOutcome::NotStarted } else { RunOutcome::Unknown };
        assert_eq!(RunOutcome::of_error(&error), expected, "{error:?}");
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

/// Returns the messages of all error types that carry a rejection.
fn messages(rejection: &Rejection) -> Vec<String> {
    let boxed = [
        BoxError::from_rejection(rejection.clone()),
        BoxError::from(Error::<Infallible>::rejected(rejection.clone())),
        BoxError::from(BodyError::<BoxError>::Rejected(rejection.clone())),
    ];
    for error in &boxed {
        assert_eq!(error.rejection(), Some(rejection));
        assert_eq!(error.source().and_then(|source| source.downcast_ref()), Some(rejection));
    }
    let mut messages = Vec::from(boxed.map(|error| error.to_string()));
    messages.push(Error::<BoxError>::rejected(rejection.clone()).to_string());
    messages.push(BodyError::<BoxError>::Rejected(rejection.clone()).to_string());
    #[cfg(feature = "tonic")]
    messages.push(tonic::Status::from(rejection.clone()).message().to_owned());
    messages
}

#[test]
fn each_error_prints_the_name_the_reason_and_the_time_to_come_back() {
    for row in rows() {
        let rejection = &row.rejection;
        let own = rejection.to_string();
        assert!(own.starts_with("a: ") && own.len() > "a: rejected".len(), "{own}");
        assert_eq!(own.ends_with(", retry in 3 s"), row.retry_after.is_some(), "{own}");
        for message in messages(rejection) {
            assert_eq!(message, own);
        }
    }
    let cause = Error::<std::io::Error>::rejected(CircuitOpen::new("redis", Some(TIME)));
    let store = StoreError::unavailable(cause);
    let message = "the store is unavailable: redis: the circuit is open, retry in 3 s";
    assert_eq!(store.to_string(), message);
}

/// The name of a layer is not for callers of the server. The reason and the time are.
#[tokio::test(start_paused = true)]
async fn a_server_tells_the_reason_and_the_time_but_no_name() {
    let rejection = Rejection::from(CircuitOpen::new("secret", Some(TIME)));
    for protocol in BOTH {
        let response = served(protocol, rejection.clone()).await;
        let (head, body) = response.into_parts();
        let told = head.headers.contains_key("retry-after")
            || head.headers.contains_key("grpc-retry-pushback-ms");
        assert!(told, "{head:?}");
        let body = body.collect().await.unwrap().to_bytes();
        let all = format!("{head:?} {}", String::from_utf8_lossy(&body));
        assert!(all.contains("circuit_open") && !all.contains("secret"), "{all}");
    }
}

#[cfg(feature = "tonic")]
mod of_a_channel {
    use std::{error::Error as StdError, fmt, io};

    use buttress::{Stack, http::grpc};
    use tonic::{Code, ConnectError, Status, body::Body};

    use super::*;

    /// An error that does not print its cause, as those of hyper and tonic.
    #[derive(Debug)]
    struct Opaque(&'static str, BoxError);

    impl fmt::Display for Opaque {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl StdError for Opaque {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&*self.1)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_status_says_why_the_server_cannot_be_reached() {
        fn refused() -> Opaque {
            let refused = io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused");
            Opaque("tcp connect error", refused.into())
        }
        let fail = |error: fn() -> BoxError| {
            let dead =
                service_fn(
                    move |_: Request<Body>| async move { Err::<Response<Body>, _>(error()) },
                );
            let call = Request::post("/shop.Orders/Get").body(Body::empty()).unwrap();
            grpc::client(dead, Stack::standard_http()).oneshot(call)
        };
        for (error, code, message) in [
            (
                (|| Opaque("transport error", ConnectError(refused().into()).into()).into())
                    as fn() -> _,
                Code::Unavailable,
                "tcp connect error: connection refused",
            ),
            (|| refused().into(), Code::Unknown, "tcp connect error: connection refused"),
            (|| "no cause".into(), Code::Unknown, "no cause"),
            (|| Opaque("outer", Status::aborted("told").into()).into(), Code::Aborted, "told"),
            (|| Status::not_found("told").into(), Code::NotFound, "told"),
        ] {
            let status = fail(error).await.err().unwrap();
            assert_eq!((status.code(), status.message()), (code, message));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_shared_failure_is_settled_as_the_outcome_that_was_shared() {
    let shared = |outcome| {
        let error = Error::<Infallible>::rejected(SharedFailure::new("a", outcome, "reset"));
        let calls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&calls);
        let service = service_fn(move |(): ()| {
            counted.fetch_add(1, Ordering::Relaxed);
            let error = error.clone();
            async { Err::<(), _>(error) }
        });
        (service, calls)
    };
    for (outcome, attempts, state) in [
        (Outcome::Failure(Fault::Transient), 4, State::Open),
        (Outcome::Failure(Fault::TimedOut), 4, State::Open),
        (Outcome::Failure(Fault::Permanent), 1, State::Closed),
        (Outcome::Ignored, 1, State::Closed),
    ] {
        let (service, calls) = shared(outcome);
        let retry = RetryLayer::builder(ReplayClones).without_budget().build().unwrap();
        assert!(retry.layer(service).oneshot(()).await.is_err());
        assert_eq!(calls.load(Ordering::Relaxed), attempts, "{outcome:?}");

        let (service, _) = shared(outcome);
        let breaker = CircuitBreakerLayer::builder().consecutive_failures(1).build().unwrap();
        assert!(breaker.layer(service).oneshot(()).await.is_err());
        assert_eq!(breaker.handle().state(), state, "{outcome:?}");
    }
}

#[test]
fn a_shared_failure_has_the_text_of_the_error() {
    let failure = SharedFailure::new("rates", Outcome::Ignored, "connection reset");
    assert_eq!(failure.to_string(), "rates: the shared call failed: connection reset");
    assert_eq!((failure.text(), failure.error_type()), ("connection reset", None));
}
