//! Tests of tower's own layers beneath this crate's.

use std::{
    convert::Infallible,
    error::Error as StdError,
    fmt,
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use buttress::{
    BoxError, CarryRejection, Rejection, Stack,
    circuit_breaker::{CircuitBreakerHandle, CircuitBreakerLayer, State},
    idempotency::RunOutcome,
    retry::{ReplayClones, RetryLayer},
};
use tokio::time::Instant;
use tower::{
    Layer, Service, ServiceBuilder, ServiceExt,
    buffer::Buffer,
    load_shed::{LoadShed, error::Overloaded},
    service_fn,
    timeout::{Timeout, error::Elapsed},
    util::BoxCloneSyncService,
};

const SECOND: Duration = Duration::from_secs(1);

fn shed() -> BoxError {
    Overloaded::new().into()
}

fn ended() -> BoxError {
    Elapsed::new().into()
}

fn kind(error: &BoxError) -> Option<&'static str> {
    error.rejection().map(Rejection::kind)
}

/// A service that is never ready.
#[derive(Clone)]
struct Busy;

impl Service<u32> for Busy {
    type Response = u32;
    type Error = Infallible;
    type Future = std::future::Ready<Result<u32, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Pending
    }

    fn call(&mut self, _: u32) -> Self::Future {
        unreachable!("it is never ready")
    }
}

trait Hanging:
    Service<u32, Response = u32, Error = Infallible, Future: Send> + Clone + Send + Sync + 'static
{
}

impl<S> Hanging for S
where
    S: Service<u32, Response = u32, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
}

/// Returns a service that hangs, and the number of its calls.
fn hanging() -> (impl Hanging, Arc<AtomicU32>) {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let service = service_fn(move |_: u32| {
        counted.fetch_add(1, Ordering::Relaxed);
        pending::<Result<u32, Infallible>>()
    });
    (service, calls)
}

/// A stack that retries, and opens at the third failure in a row.
fn stack<S>(service: S) -> (BoxCloneSyncService<u32, u32, BoxError>, CircuitBreakerHandle)
where
    S: Service<u32, Response = u32, Future: Send> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
{
    let breaker = CircuitBreakerLayer::builder().consecutive_failures(3).build().unwrap();
    let handle = breaker.handle();
    let stack = Stack::new().retry(RetryLayer::new(ReplayClones)).circuit_breaker(breaker);
    (BoxCloneSyncService::new(stack.boxed(service)), handle)
}

#[tokio::test(start_paused = true)]
async fn a_call_that_tower_sheds_is_not_retried_and_is_no_failure() {
    let shedding = LoadShed::new(Busy);
    let buffered = Buffer::new(shedding.clone(), 8);
    let boxed = BoxCloneSyncService::new(shedding.clone());
    let timed = Timeout::new(shedding.clone(), SECOND);
    let (shedding, buffered, boxed, timed) =
        (stack(shedding), stack(buffered), stack(boxed), stack(timed));
    for (client, breaker) in [shedding, buffered, boxed, timed] {
        let began = Instant::now();
        for _ in 0..30 {
            let error = client.clone().oneshot(1).await.unwrap_err();
            assert!(error.is::<Overloaded>(), "the error is unchanged");
            assert_eq!(kind(&error), Some("load_shed"));
        }
        assert_eq!(began.elapsed(), Duration::ZERO, "there is no pause for a retry");
        let counted = breaker.snapshot();
        assert_eq!((counted.state(), counted.calls(), counted.failures()), (State::Closed, 0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_tower_ends_is_not_retried_and_is_no_failure() {
    let (service, calls) = hanging();
    let (client, breaker) = stack(Timeout::new(service, SECOND / 10));
    for _ in 0..30 {
        let error = client.clone().oneshot(1).await.unwrap_err();
        assert!(error.is::<Elapsed>(), "the error is unchanged");
        assert_eq!(kind(&error), Some("elapsed"));
    }
    assert_eq!((calls.load(Ordering::Relaxed), breaker.state()), (30, State::Closed));
    assert_eq!(breaker.snapshot().failures(), 0);
}

/// It counts like a call that its caller dropped. Otherwise a dead dependency would not be seen.
#[tokio::test(start_paused = true)]
async fn a_hang_that_outlasts_every_patience_is_still_seen() {
    let (service, calls) = hanging();
    let (client, breaker) = stack(Timeout::new(service, SECOND * 3));
    for _ in 0..20 {
        client.clone().oneshot(1).await.unwrap_err();
    }
    assert_eq!(breaker.state(), State::Open);
    assert!(calls.load(Ordering::Relaxed) < 20);
}

/// A probe that tower ends returns its permit, and neither opens nor closes the circuit.
#[tokio::test(start_paused = true)]
async fn a_probe_that_tower_ends_leaves_the_circuit_half_open() {
    let (service, calls) = hanging();
    let client = Timeout::new(service, SECOND / 10);
    let layer =
        CircuitBreakerLayer::builder().consecutive_failures(1).open_for(SECOND).build().unwrap();
    let breaker = layer.handle();
    let failing = service_fn(|_: u32| async { Err::<u32, BoxError>("broken".into()) });
    layer.layer(failing).oneshot(1).await.unwrap_err();
    assert_eq!(breaker.state(), State::Open);
    tokio::time::sleep(SECOND * 2).await;
    for _ in 0..10 {
        let probe = layer.layer(client.clone()).oneshot(1).await.unwrap_err();
        assert_eq!(kind(&probe), Some("elapsed"));
        assert_eq!(breaker.state(), State::HalfOpen);
    }
    assert_eq!(calls.load(Ordering::Relaxed), 10);
}

/// The error of the first attempt is kept if the second is shed, because it says why it failed.
#[tokio::test(start_paused = true)]
async fn a_retry_that_tower_sheds_returns_the_first_failure() {
    let errors: [(fn() -> BoxError, _); 2] = [(shed, "broken"), (ended, "elapsed")];
    for (second, expected) in errors {
        let calls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&calls);
        let failing = service_fn(move |_: u32| {
            let first = counted.fetch_add(1, Ordering::Relaxed) == 0;
            let error = if first { "broken".into() } else { second() };
            async { Err::<u32, BoxError>(error) }
        });
        let client = Stack::new().retry(RetryLayer::new(ReplayClones)).boxed(failing);
        let error = client.oneshot(1).await.unwrap_err();
        let said = kind(&error).map_or(error.to_string(), str::to_owned);
        assert_eq!((said.as_str(), calls.load(Ordering::Relaxed)), (expected, 2));
    }
}

#[test]
fn an_idempotent_run_that_tower_sheds_has_not_begun() {
    let of_error = |error: BoxError| RunOutcome::of_error(&error);
    assert_eq!(of_error(shed()), RunOutcome::NotStarted);
    assert_eq!(of_error(ended()), RunOutcome::Unknown);
}

/// A layer around this crate's layers sheds and ends calls, too.
#[tokio::test(start_paused = true)]
async fn a_rejection_of_this_crate_is_found_through_towers_layers() {
    let breaker = CircuitBreakerLayer::builder().build().unwrap();
    breaker.handle().force_open();
    let client = ServiceBuilder::new()
        .load_shed()
        .timeout(SECOND)
        .layer(breaker)
        .service(service_fn(|request: u32| async move { Ok::<_, BoxError>(request) }));
    assert_eq!(kind(&client.oneshot(1).await.unwrap_err()), Some("circuit_open"));
}

/// Errors of others with the same text, or the same name, are errors of the service.
#[test]
fn an_error_that_only_looks_like_one_of_tower_is_none() {
    mod texts {
        #[derive(Debug)]
        pub(crate) struct Busy;
        #[derive(Debug)]
        pub(crate) struct Overloaded;
        #[derive(Debug)]
        pub(crate) struct Elapsed;
    }

    macro_rules! errors {
        ($($name:ty => $text:literal),+) => {$(
            impl fmt::Display for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str($text)
                }
            }
            impl StdError for $name {}
        )+};
    }
    errors!(
        texts::Busy => "service overloaded",
        texts::Overloaded => "service overloaded, come back later",
        texts::Elapsed => "request timed out"
    );
    for error in [
        BoxError::from(texts::Busy),
        texts::Overloaded.into(),
        texts::Elapsed.into(),
        "service overloaded".into(),
        "request timed out".into(),
    ] {
        assert_eq!(kind(&error), None, "{error:?}");
    }
}

/// A connection that timed out is a failure of the dependency.
#[test]
fn a_cause_is_not_a_rejection() {
    #[derive(Debug)]
    struct Connect(Elapsed);

    impl fmt::Display for Connect {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("no connection")
        }
    }

    impl StdError for Connect {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&self.0)
        }
    }

    assert_eq!(kind(&Connect(Elapsed::new()).into()), None);
}

#[cfg(feature = "http")]
mod over_http {
    use buttress::http::ReplaySafe;
    use http::{Request, Response};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_that_tower_sheds_or_ends_is_not_classified() {
        let errors: [(fn() -> BoxError, _); 2] = [(shed, "load_shed"), (ended, "elapsed")];
        for (error, expected) in errors {
            let calls = Arc::new(AtomicU32::new(0));
            let counted = Arc::clone(&calls);
            let breaker = CircuitBreakerLayer::builder().consecutive_failures(1).build().unwrap();
            let handle = breaker.handle();
            let client = Stack::new()
                .retry(RetryLayer::new(ReplaySafe::new()))
                .circuit_breaker(breaker)
                .http()
                .boxed(service_fn(move |_: Request<String>| {
                    counted.fetch_add(1, Ordering::Relaxed);
                    let error = error();
                    async move { Err::<Response<String>, BoxError>(error) }
                }));
            let error = client.oneshot(Request::new(String::new())).await.unwrap_err();
            assert_eq!((kind(&error), calls.load(Ordering::Relaxed)), (Some(expected), 1));
            assert_eq!(handle.state(), State::Closed);
        }
    }
}

#[cfg(feature = "tonic")]
mod over_grpc {
    use buttress::{
        Stack,
        http::{ReplaySafe, grpc},
    };
    use http::{Request, Response};
    use tonic::{Code, Status, body::Body};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_channel_that_sheds_or_ends_calls_is_not_retried_and_has_a_code() {
        let errors: [(fn() -> BoxError, _, _); 2] = [
            (shed, "load_shed", Code::ResourceExhausted),
            (ended, "elapsed", Code::DeadlineExceeded),
        ];
        for (error, expected, code) in errors {
            let calls = Arc::new(AtomicU32::new(0));
            let counted = Arc::clone(&calls);
            let channel = service_fn(move |_: Request<Body>| {
                counted.fetch_add(1, Ordering::Relaxed);
                let error = error();
                async move { Err::<Response<Body>, BoxError>(error) }
            });
            let safe = ReplaySafe::new().grpc_methods_fn(|_| true);
            let client = grpc::client(channel, Stack::standard(safe).http());
            let mut request = Request::new(Body::empty());
            *request.method_mut() = http::Method::POST;
            let kind_of = http::HeaderValue::from_static("application/grpc");
            request.headers_mut().insert("content-type", kind_of);
            let status = client.oneshot(request).await.unwrap_err();
            assert_eq!(status.rejection().map(Rejection::kind), Some(expected));
            assert_eq!((status.code(), calls.load(Ordering::Relaxed)), (code, 1));
        }
        // A status that somebody else has made of the error.
        let status = Status::from_error(shed());
        assert_eq!(status.rejection().map(Rejection::kind), Some("load_shed"));
    }
}
