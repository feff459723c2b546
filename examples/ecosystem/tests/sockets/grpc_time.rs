//! Tests of the timeouts of a gRPC call, which tonic's own timers enforce too.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use buttress::{
    Classify, Fault, Outcome, RetryHint, Stack,
    circuit_breaker::{CircuitBreakerHandle, CircuitBreakerLayer},
    http::{AutoClassifier, HttpClientLayer, ReplaySafe, grpc, wire},
    retry::{Backoff, Jitter, RetryLayer},
};
use tokio::time::Instant;
use tonic::{
    Code, Request, Status,
    body::Body,
    transport::{Channel, Server},
};
use tonic_health::pb::health_client::HealthClient;
use tower::service_fn;

use super::support::{CHECK, Scripted, asked, counted, elapse, endpoint, until};

const SECOND: Duration = Duration::from_secs(1);

/// A classifier that notes the outcomes of the stack's own classifier.
#[derive(Clone, Default)]
struct Noting {
    judge: AutoClassifier,
    noted: Arc<Mutex<Vec<Outcome>>>,
}

impl<Res, E> Classify<Res, E> for Noting
where
    AutoClassifier: Classify<Res, E>,
{
    fn classify(&self, result: Result<&Res, &E>) -> Outcome {
        let outcome = self.judge.classify(result);
        self.noted.lock().unwrap().push(outcome);
        outcome
    }

    fn hint(&self, result: Result<&Res, &E>) -> RetryHint {
        self.judge.hint(result)
    }
}

/// Makes a call that hangs until a timeout ends it.
///
/// Returns its status, the handle of the breaker, and the noted outcomes.
async fn hang(
    health: &Scripted,
    channel: Channel,
    attempt: Duration,
    client: HttpClientLayer,
) -> (Status, CircuitBreakerHandle, Vec<Outcome>) {
    let noting = Noting::default();
    // Not the classifier of the stack, because the span of the call would ask it too.
    let breaker = CircuitBreakerLayer::builder().classify(noting.clone()).build().unwrap();
    let handle = breaker.handle();
    let stack = Stack::new().circuit_breaker(breaker).attempt_timeout(attempt).http_client(client);
    let mut client = HealthClient::new(grpc::client(channel, stack));
    let call = tokio::spawn(async move { client.check(asked("held")).await });
    health.gate.arrived(1).await;
    elapse(SECOND).await;
    let status = call.await.unwrap().unwrap_err();
    let noted = noting.noted.lock().unwrap().clone();
    (status, handle, noted)
}

const TIMED_OUT: [Outcome; 1] = [Outcome::Failure(Fault::TimedOut)];

#[tokio::test]
async fn the_time_out_of_a_tonic_server_is_a_time_out_of_the_dependency() {
    let health = Scripted::new();
    let address = health.serve_by(Server::builder().timeout(SECOND)).await;
    let channel = endpoint(address).connect_lazy();
    let (status, breaker, noted) =
        hang(&health, channel, 60 * SECOND, HttpClientLayer::new()).await;
    // This status came from the server.
    assert_eq!((status.code(), status.message()), (Code::Cancelled, "Timeout expired"));
    assert_eq!((counted(&breaker), &noted[..]), ((1, 1), &TIMED_OUT[..]));
}

#[tokio::test]
async fn the_time_out_of_a_tonic_channel_is_a_time_out_of_the_dependency() {
    let health = Scripted::new();
    let address = health.serve().await;
    let channel = endpoint(address).timeout(SECOND).connect_lazy();
    let (status, breaker, noted) =
        hang(&health, channel, 60 * SECOND, HttpClientLayer::new()).await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert_eq!((counted(&breaker), &noted[..]), ((1, 1), &TIMED_OUT[..]));
}

#[tokio::test]
async fn the_status_that_tonic_made_of_a_time_out_is_a_time_out_of_the_dependency() {
    // A layer between stack and channel made a status of the error, and its cause is lost.
    let channel = service_fn(async |_: http::Request<Body>| {
        Err::<http::Response<Body>, _>(Status::cancelled("Timeout expired"))
    });
    let breaker = CircuitBreakerLayer::new();
    let handle = breaker.handle();
    let stack = Stack::new().circuit_breaker(breaker).http();
    HealthClient::new(grpc::client(channel, stack)).check(asked("")).await.unwrap_err();
    assert_eq!(counted(&handle), (1, 1));
}

#[tokio::test]
async fn our_own_time_out_is_a_time_out_of_the_dependency() {
    let health = Scripted::new();
    let address = health.serve().await;
    let untold = HttpClientLayer::builder().without_hop_headers().build().unwrap();
    let channel = endpoint(address).connect_lazy();
    let (status, breaker, noted) = hang(&health, channel, SECOND, untold).await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
    // No classifier sees a rejection.
    assert_eq!((counted(&breaker), &noted[..]), ((1, 1), &[][..]));
}

#[tokio::test]
async fn a_call_that_three_timers_end_at_once_is_counted_once_as_a_time_out() {
    let health = Scripted::new();
    let address = health.serve().await;
    let channel = endpoint(address).connect_lazy();
    let (status, breaker, noted) = hang(&health, channel, SECOND, HttpClientLayer::new()).await;
    // Any of the three timers may be the first.
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert_eq!(counted(&breaker), (1, 1));
    assert!(noted.is_empty() || noted == TIMED_OUT, "{noted:?}");
}

#[tokio::test]
async fn the_time_of_a_single_request_bounds_all_its_attempts_and_is_told_afresh_to_each() {
    let health = Scripted::new();
    let address = health.serve().await;
    let safe = ReplaySafe::new().grpc_methods_fn(|path| path == CHECK);
    let pause = Backoff::constant(SECOND).jitter(Jitter::None).build().unwrap();
    let retry = RetryLayer::builder(safe).backoff(pause).retries(9).without_budget();
    let breaker = CircuitBreakerLayer::new();
    let handle = breaker.handle();
    let stack = Stack::new()
        .retry(retry.build().unwrap())
        .circuit_breaker(breaker)
        .attempt_timeout(4 * SECOND)
        .http();
    let mut client = HealthClient::new(grpc::client(endpoint(address).connect_lazy(), stack));

    let began = Instant::now();
    let call = tokio::spawn(async move {
        let mut request = Request::new(asked("held"));
        request.set_timeout(12 * SECOND);
        let result = client.check(request).await;
        (result, Instant::now())
    });
    // Each attempt has four seconds, and a pause of one second follows. The third attempt has only
    // two seconds left.
    for attempt in 1..=2 {
        health.gate.arrived(1).await;
        elapse(4 * SECOND).await;
        until("the attempt has failed", || counted(&handle).1 == attempt).await;
        elapse(SECOND).await;
    }
    health.gate.arrived(1).await;
    elapse(2 * SECOND).await;
    until("the call has ended", || call.is_finished()).await;
    let (result, ended) = call.await.unwrap();
    result.unwrap_err();
    assert!(ended - began >= 12 * SECOND && ended - began < 14 * SECOND);

    let seen = health.seen.lock().unwrap();
    let told: Vec<_> =
        seen.iter().map(|headers| wire::grpc_timeout(headers).value.unwrap()).collect();
    assert_eq!(told.len(), 3);
    assert!(told[0] <= 4 * SECOND && told[0] > 3 * SECOND, "{told:?}");
    assert!(told[1] <= 4 * SECOND && told[1] > 3 * SECOND, "{told:?}");
    assert!(told[2] <= 2 * SECOND && told[2] > SECOND, "{told:?}");
    let attempts: Vec<_> =
        seen.iter().map(|headers| wire::previous_attempts(headers).value).collect();
    assert_eq!(attempts, [None, Some(1), Some(2)]);
}
