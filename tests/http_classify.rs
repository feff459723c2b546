//! Tests of the outcomes of responses and errors.
#![cfg(feature = "http")]

mod http_support;

use std::{
    error::Error as StdError,
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use buttress::{
    BoxError, CarryRejection, Classify, Error, Fault, Outcome, Rejection, RetryHint, Stack,
    circuit_breaker::CircuitBreakerLayer,
    error::DeadlineExceeded,
    http::{
        AutoClassifier, Cause, GrpcClassifier, HttpClassifier, HttpClientLayer, ReplayBody,
        ReplayBodyLayer, ReplaySafe, replay::ReplayBodyError, wire::GrpcCode,
    },
    retry::RetryLayer,
};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, uri};
use http_body_util::{BodyExt, StreamBody};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

use self::http_support::*;

const GOOD: Outcome = Outcome::Success;
const TRANSIENT: Outcome = Outcome::Failure(Fault::Transient);
const TIMED_OUT: Outcome = Outcome::Failure(Fault::TimedOut);
const PERMANENT: Outcome = Outcome::Failure(Fault::Permanent);
const SECOND: Duration = Duration::from_secs(1);

fn overloaded(seconds: Option<u64>) -> Outcome {
    Outcome::Failure(Fault::Overloaded { retry_after: seconds.map(Duration::from_secs) })
}

fn in_progress(seconds: Option<u64>) -> Outcome {
    Outcome::Failure(Fault::InProgress { retry_after: seconds.map(Duration::from_secs) })
}

type Failure = Error<io::Error>;
type Headers = &'static [(&'static str, &'static str)];

fn outcome<C: Classify<Answer, Failure>>(classifier: &C, answer: &Answer) -> Outcome {
    classifier.classify(Ok(answer))
}

fn hint<C: Classify<Answer, Failure>>(classifier: &C, answer: &Answer) -> RetryHint {
    classifier.hint(Ok(answer))
}

/// Adds a body to a response.
fn with_body(mut answer: Answer) -> Answer {
    *answer.body_mut() = Body::from("more");
    answer
}

#[test]
fn an_http_answer_is_judged_by_its_status() {
    const AFTER: Headers = &[("retry-after", "7")];
    let table: &[(u16, Headers, Outcome)] = &[
        (100, &[], GOOD),
        (101, &[], GOOD),
        (200, &[], GOOD),
        (204, &[], GOOD),
        (304, &[], GOOD),
        (400, &[], GOOD),
        (401, &[], GOOD),
        (404, &[], GOOD),
        (408, &[], TIMED_OUT),
        (409, &[], GOOD),
        (409, AFTER, in_progress(Some(7))),
        (409, &[("retry-after", "0")], in_progress(None)),
        (409, &[("retry-after", "soon")], GOOD),
        (422, AFTER, GOOD),
        (421, &[], PERMANENT),
        (425, &[], PERMANENT),
        (429, &[], overloaded(None)),
        (429, AFTER, overloaded(Some(7))),
        (500, &[], TRANSIENT),
        (501, &[], PERMANENT),
        (502, AFTER, TRANSIENT),
        (503, &[], TRANSIENT),
        (503, AFTER, overloaded(Some(7))),
        (503, &[("retry-after", "soon")], TRANSIENT),
        (504, AFTER, TIMED_OUT),
        (505, &[], PERMANENT),
        (599, &[], TRANSIENT),
        (600, &[], GOOD),
        (999, &[], GOOD),
        // gRPC headers have no meaning here.
        (200, &[("grpc-status", "14")], GOOD),
    ];
    for (status, headers, expected) in table {
        let answer = answer(*status, headers);
        assert_eq!(outcome(&HttpClassifier::new(), &answer), *expected, "{status}");
        assert_eq!(outcome(&AutoClassifier::new(), &answer), *expected, "{status}");
    }
}

#[test]
fn a_grpc_answer_is_judged_by_its_status() {
    let expected = [
        GOOD,             // OK
        PERMANENT,        // CANCELLED
        TRANSIENT,        // UNKNOWN
        PERMANENT,        // INVALID_ARGUMENT
        TIMED_OUT,        // DEADLINE_EXCEEDED
        PERMANENT,        // NOT_FOUND
        PERMANENT,        // ALREADY_EXISTS
        PERMANENT,        // PERMISSION_DENIED
        overloaded(None), // RESOURCE_EXHAUSTED
        PERMANENT,        // FAILED_PRECONDITION
        PERMANENT,        // ABORTED
        PERMANENT,        // OUT_OF_RANGE
        PERMANENT,        // UNIMPLEMENTED
        TRANSIENT,        // INTERNAL
        TRANSIENT,        // UNAVAILABLE
        TRANSIENT,        // DATA_LOSS
        PERMANENT,        // UNAUTHENTICATED
        TRANSIENT,        // no code at all, which is UNKNOWN
    ];
    for (code, expected) in (0u8..).zip(expected) {
        let answer = trailers_only(code, &[]);
        assert_eq!(outcome(&GrpcClassifier::new(), &answer), expected, "{code}");
        assert_eq!(outcome(&AutoClassifier::new(), &answer), expected, "{code}");
    }
    let asked = trailers_only(8, &[("grpc-retry-pushback-ms", "2000")]);
    assert_eq!(outcome(&GrpcClassifier::new(), &asked), overloaded(Some(2)));
    for (millis, expected) in [
        ("7000", in_progress(Some(7))),
        ("0", in_progress(Some(0))),
        ("-1", PERMANENT),
        ("soon", PERMANENT),
    ] {
        let asked = trailers_only(10, &[("grpc-retry-pushback-ms", millis)]);
        assert_eq!(outcome(&GrpcClassifier::new(), &asked), expected, "{millis}");
    }
    let by_tonic = trailers_only(1, &[("grpc-message", "Timeout%20expired")]);
    assert_eq!(outcome(&GrpcClassifier::new(), &by_tonic), TIMED_OUT);
    let nothing = answer(200, &[("content-type", "application/grpc")]);
    assert_eq!(outcome(&GrpcClassifier::new(), &nothing), TRANSIENT, "ended without a status");
    assert_eq!(outcome(&GrpcClassifier::new(), &with_body(nothing)), GOOD, "not ended");
    for (status, expected) in [(429, overloaded(None)), (503, TRANSIENT), (504, TIMED_OUT)] {
        // The response comes from a proxy, not from the service.
        let proxied = answer(status, &[("content-type", "application/grpc"), ("grpc-status", "0")]);
        assert_eq!(outcome(&GrpcClassifier::new(), &proxied), expected, "{status}");
    }
}

#[test]
fn which_of_the_two_judges_is_chosen_by_the_content_type_of_the_answer() {
    let judged_as_grpc = |kind: &str| {
        let answer = answer(200, &[("content-type", kind), ("grpc-status", "14")]);
        outcome(&AutoClassifier::new(), &answer) == TRANSIENT
    };
    for kind in ["application/grpc", "application/grpc+proto", "Application/gRPC; a=b"] {
        assert!(judged_as_grpc(kind), "{kind}");
    }
    for kind in ["application/json", "application/grpc-web", "application/grpcs", ""] {
        assert!(!judged_as_grpc(kind), "{kind}");
    }
}

#[test]
fn what_a_status_means_can_be_set_and_the_last_opinion_counts() {
    let http = HttpClassifier::new()
        .status(StatusCode::NOT_FOUND, TRANSIENT)
        .status(StatusCode::NOT_FOUND, PERMANENT)
        .status(StatusCode::INTERNAL_SERVER_ERROR, Outcome::Ignored)
        .adjust_fn(|status, headers| {
            (status == 500 && headers.contains_key("x-bug")).then_some(PERMANENT)
        });
    let auto = AutoClassifier::from(http.clone());
    for (answer, expected) in [
        (answer(404, &[]), PERMANENT),
        (answer(500, &[]), Outcome::Ignored),
        (answer(500, &[("x-bug", "1")]), PERMANENT),
        (answer(502, &[]), TRANSIENT),
    ] {
        assert_eq!(outcome(&http, &answer), expected, "{answer:?}");
        assert_eq!(outcome(&auto, &answer), expected, "{answer:?}");
    }

    let grpc = GrpcClassifier::new()
        .adjust_fn(|code, _| (code == GrpcCode::Aborted).then_some(GOOD))
        .code(GrpcCode::Aborted, TRANSIENT)
        .code(GrpcCode::Ok, PERMANENT)
        .adjust_fn(|_, fields| fields.contains_key("x-fine").then_some(GOOD));
    let auto = AutoClassifier::new().grpc(grpc.clone());
    for (answer, expected) in [
        (trailers_only(10, &[]), TRANSIENT),
        (trailers_only(0, &[]), PERMANENT),
        (trailers_only(14, &[("x-fine", "1")]), GOOD),
        (trailers_only(14, &[]), TRANSIENT),
    ] {
        assert_eq!(outcome(&grpc, &answer), expected, "{answer:?}");
        assert_eq!(outcome(&auto, &answer), expected, "{answer:?}");
    }
    assert_eq!(outcome(&auto, &answer(500, &[])), TRANSIENT);
}

#[test]
fn hints_are_read_and_none_asks_for_a_retry() {
    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    let after = |seconds| RetryHint::After(SECOND * seconds);
    let table: &[(Headers, RetryHint)] = &[
        (&[], RetryHint::Unstated),
        (&[("retry-after", "3")], after(3)),
        (&[("retry-after", "3"), ("retry-after", "5")], after(5)),
        (&[("retry-after", "Sun, 06 Nov 1994 08:49:40 GMT"), ("date", DATE)], after(3)),
        // A time that is now or in the past does not ask for an immediate retry.
        (&[("retry-after", DATE), ("date", DATE)], RetryHint::Unstated),
        (&[("retry-after", "0")], RetryHint::Unstated),
        (&[("retry-after", "-1")], RetryHint::Unstated),
        (&[("x-should-retry", "true")], RetryHint::Unstated),
        (&[("x-should-retry", "false"), ("retry-after", "3")], RetryHint::Stop),
        (&[("x-should-retry", "FALSE")], RetryHint::Stop),
        (&[("grpc-retry-pushback-ms", "-1")], RetryHint::Unstated),
    ];
    for (headers, expected) in table {
        let answer = answer(503, headers);
        assert_eq!(hint(&HttpClassifier::new(), &answer), *expected, "{headers:?}");
        assert_eq!(hint(&AutoClassifier::new(), &answer), *expected, "{headers:?}");
    }
    let table: &[(&[&str], RetryHint)] = &[
        (&[], RetryHint::Unstated),
        (&["0"], RetryHint::After(Duration::ZERO)),
        (&["3000"], after(3)),
        (&["-1"], RetryHint::Stop),
        (&[""], RetryHint::Stop),
        (&["abc"], RetryHint::Stop),
        (&["1.5"], RetryHint::Stop),
        (&["2147483648"], RetryHint::Stop),
        (&["5", "5"], RetryHint::Stop),
    ];
    for (values, expected) in table {
        let headers: Vec<_> =
            values.iter().map(|value| ("grpc-retry-pushback-ms", *value)).collect();
        let answer = trailers_only(14, &headers);
        assert_eq!(hint(&GrpcClassifier::new(), &answer), *expected, "{values:?}");
        assert_eq!(hint(&AutoClassifier::new(), &answer), *expected, "{values:?}");
    }
    let not_for_grpc = trailers_only(14, &[("x-should-retry", "false"), ("retry-after", "3")]);
    assert_eq!(hint(&AutoClassifier::new(), &not_for_grpc), RetryHint::Unstated);
}

#[test]
fn to_come_back_at_once_is_not_what_an_overloaded_server_asks() {
    for headers in [
        &[("retry-after", "0")][..],
        &[
            ("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("date", "Sun, 06 Nov 1994 08:49:38 GMT"),
        ],
    ] {
        for status in [429, 503] {
            let answer = answer(status, headers);
            assert_eq!(outcome(&HttpClassifier::new(), &answer), overloaded(None), "{headers:?}");
        }
    }
}

#[derive(Debug)]
struct Wrapped<E>(E);

impl<E: fmt::Debug> fmt::Display for Wrapped<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("wrapped")
    }
}

impl<E: StdError + 'static> StdError for Wrapped<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}

/// An error type of a user.
#[derive(Debug)]
enum Mine {
    Rejected(Rejection),
    Broken(BoxError),
}

impl CarryRejection for Mine {
    fn from_rejection(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }

    fn rejection(&self) -> Option<&Rejection> {
        match self {
            Self::Rejected(rejection) => Some(rejection),
            Self::Broken(_) => None,
        }
    }
}

impl Cause for Mine {
    fn cause(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Rejected(_) => None,
            Self::Broken(error) => Some(error.as_ref()),
        }
    }
}

/// Returns the outcome of an error, wrapped in each of three ways.
///
/// All three classifiers must agree on it.
fn said_of<E: StdError + Send + Sync + 'static>(error: impl Fn() -> E) -> (Outcome, RetryHint) {
    fn by_all<E: Cause>(error: &E) -> Vec<(Outcome, RetryHint)> {
        fn by<E, C: Classify<Answer, E>>(classifier: C, error: &E) -> (Outcome, RetryHint) {
            (classifier.classify(Err(error)), classifier.hint(Err(error)))
        }
        let (http, grpc) = (HttpClassifier::new(), GrpcClassifier::new());
        vec![by(http, error), by(grpc, error), by(AutoClassifier::new(), error)]
    }
    let boxed = || BoxError::from(error());
    let mut said = by_all(&Error::Service(error()));
    said.extend(by_all(&boxed()));
    said.extend(by_all(&Mine::Broken(boxed())));
    said.dedup();
    assert_eq!(said.len(), 1, "{said:?} of {}", error());
    said[0]
}

#[test]
fn an_error_is_judged_by_its_causes() {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, NotConnected, Other,
        TimedOut, UnexpectedEof,
    };

    let nothing = RetryHint::Unstated;
    let source = || ReplayBodyError::Source(io::Error::from(TimedOut).into());
    assert_eq!(said_of(|| io::Error::from(ConnectionRefused)), (TRANSIENT, RetryHint::Unsent));
    assert_eq!(said_of(|| io::Error::from(TimedOut)), (TIMED_OUT, nothing));
    assert_eq!(
        said_of(|| Wrapped(Wrapped(io::Error::from(ConnectionRefused)))),
        (TRANSIENT, RetryHint::Unsent)
    );
    assert_eq!(said_of(|| Wrapped(io::Error::from(TimedOut))), (TIMED_OUT, nothing));
    for kind in [ConnectionReset, ConnectionAborted, BrokenPipe, UnexpectedEof, NotConnected, Other]
    {
        assert_eq!(said_of(|| io::Error::from(kind)), (TRANSIENT, nothing), "{kind}");
    }
    assert_eq!(said_of(|| fmt::Error), (TRANSIENT, nothing));
    // The body of a request does not fail because of the called service.
    assert_eq!(said_of(source).0, Outcome::Ignored);
    assert_eq!(said_of(|| Wrapped(source())).0, Outcome::Ignored);
    assert_eq!(said_of(|| ReplayBodyError::Stale), (Outcome::Ignored, nothing));
    // A request that cannot be built is not sent.
    let own = (Outcome::Ignored, nothing);
    assert_eq!(said_of(|| Request::get("no uri").body(()).unwrap_err()), own);
    assert_eq!(said_of(|| Uri::try_from("no uri").unwrap_err()), own);
    assert_eq!(said_of(|| Uri::from_parts(half_of_a_uri()).unwrap_err()), own);
    assert_eq!(said_of(|| HeaderName::from_bytes(b"no name").unwrap_err()), own);
    assert_eq!(said_of(|| Wrapped(HeaderValue::from_bytes(b"\n").unwrap_err())), own);
}

fn half_of_a_uri() -> uri::Parts {
    let mut parts = uri::Parts::default();
    parts.scheme = Some(uri::Scheme::HTTP);
    parts
}

fn error_type<C: Classify<Answer, Failure>>(
    classifier: C,
    result: Result<&Answer, &Failure>,
) -> String {
    classifier.error_type(result).unwrap_or("none").to_owned()
}

#[test]
fn the_cause_of_a_failure_is_its_status_or_its_code() {
    let headers = [("content-type", "application/grpc"), ("grpc-status", "14")];
    for status in 100..1000 {
        let expected =
            if (400..600).contains(&status) { status.to_string() } else { "none".into() };
        assert_eq!(error_type(HttpClassifier::new(), Ok(&answer(status, &[]))), expected);
        let grpc = answer(status, &headers);
        let expected = if status == 200 { "UNAVAILABLE".to_owned() } else { expected };
        assert_eq!(error_type(GrpcClassifier::new(), Ok(&grpc)), expected);
        assert_eq!(error_type(AutoClassifier::new(), Ok(&grpc)), expected);
    }
    for number in 0..18 {
        let code = GrpcCode::from_number(number).unwrap_or(GrpcCode::Unknown);
        let expected = if code == GrpcCode::Ok { "none" } else { code.as_str() };
        assert_eq!(error_type(AutoClassifier::new(), Ok(&trailers_only(number, &[]))), expected);
    }
    let by_tonic = trailers_only(1, &[("grpc-message", "Timeout%20expired")]);
    assert_eq!(error_type(GrpcClassifier::new(), Ok(&by_tonic)), "DEADLINE_EXCEEDED");
    // It ended without a status.
    let nothing = answer(200, &[headers[0]]);
    assert_eq!(error_type(GrpcClassifier::new(), Ok(&nothing)), "UNKNOWN");
}

#[test]
fn the_cause_of_an_error_is_its_kind() {
    use io::ErrorKind::*;

    for (kind, expected) in [
        (ConnectionRefused, "connect"),
        (HostUnreachable, "connect"),
        (TimedOut, "timeout"),
        (ConnectionReset, "reset"),
        (BrokenPipe, "closed"),
        (UnexpectedEof, "closed"),
        (Other, "none"),
    ] {
        let wrapped = Error::Service(io::Error::other(io::Error::from(kind)));
        assert_eq!(error_type(AutoClassifier::new(), Err(&wrapped)), expected, "{kind}");
    }
}

/// `io::Error` does not return the error that it wraps from its `source()`.
#[test]
fn what_an_io_error_is_made_of_is_a_cause_too() {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, TimedOut};

    let rejected = || io::Error::other(io::Error::from(ConnectionRefused));
    assert_eq!(said_of(rejected), (TRANSIENT, RetryHint::Unsent));
    let late = || io::Error::other(io::Error::from(TimedOut));
    assert_eq!(said_of(late), (TIMED_OUT, RetryHint::Unstated));
    let own = || Wrapped(io::Error::new(BrokenPipe, ReplayBodyError::Failed));
    assert_eq!(said_of(own), (Outcome::Ignored, RetryHint::Unstated));
}

#[test]
fn a_rejection_has_no_cause() {
    let rejected = Error::<io::Error>::rejected(DeadlineExceeded::new("total"));
    assert!(Cause::cause(&rejected).is_none());
}

/// Reads the body of a request as a client does, and returns the errors that a client returns.
async fn send<B>(request: Request<B>) -> Result<Answer, Wrapped<B::Error>>
where
    B: http_body::Body<Data = Bytes>,
{
    request.into_body().collect().await.map(|_| Answer::default()).map_err(Wrapped)
}

#[tokio::test(start_paused = true)]
async fn the_failure_of_a_users_own_body_is_returned_and_not_retried() {
    let attempts = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&attempts);
    let breaker = CircuitBreakerLayer::builder().consecutive_failures(1).build().unwrap();
    let handle = breaker.handle();
    let stack = Stack::new()
        .retry(RetryLayer::new(ReplaySafe::new()))
        .circuit_breaker(breaker)
        .http_client(HttpClientLayer::new());
    let client = stack.service::<_, Request<ReplayBody<_>>, _>(service_fn(move |request| {
        counted.fetch_add(1, Ordering::Relaxed);
        send(request)
    }));
    let client = ServiceBuilder::new().layer(ReplayBodyLayer::new()).service(client);

    let broken = futures::stream::iter([
        Ok(http_body::Frame::data(Bytes::from("half of"))),
        Err(io::Error::from(io::ErrorKind::ConnectionRefused)),
    ]);
    let mut request = Request::new(StreamBody::new(broken));
    *request.method_mut() = Method::PUT;
    let Err(Error::Service(Wrapped(error))) = client.oneshot(request).await else {
        panic!("the body failed");
    };
    assert!(matches!(error, ReplayBodyError::Source(_)), "{error:?}");
    assert_eq!(attempts.load(Ordering::Relaxed), 1);
    assert_eq!(handle.snapshot().failures(), 0);
}

/// The HTTP classifiers also work in a stack that does not use the hop protocol.
#[tokio::test(start_paused = true)]
async fn a_layer_by_itself_can_have_a_classifier_of_http() {
    let upstream = Upstream::saying([answer(503, &[]), answer(200, &[])]);
    let layer = retry(3).classify(HttpClassifier::new()).build().unwrap();
    let client = layer.layer(upstream.clone().map_err(Error::Service));
    let answered: Result<Response<Body>, Failure> =
        client.oneshot(Protocol::Http.request(&[])).await;
    assert_eq!((answered.unwrap().status(), upstream.calls()), (StatusCode::OK, 2));
}
