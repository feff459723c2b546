//! Tests of the status that a generated client gets when its stack rejects or ends a call.

use std::time::Duration;

use buttress::{
    Deadline, Rejection, Stack,
    bulkhead::BulkheadLayer,
    circuit_breaker::CircuitBreakerLayer,
    endpoints::Endpoints,
    http::{HttpClientLayer, ReplaySafe, grpc},
};
use tonic::{Code, Request, Status, metadata::MetadataValue};
use tonic_health::pb::health_client::HealthClient;

use super::support::{Scripted, asked, elapse, endpoint, listen, rejection, until, until_free};

const SECOND: Duration = Duration::from_secs(1);

fn told(status: &Status) -> (Code, &'static str) {
    (status.code(), rejection(status).map_or("no rejection", Rejection::kind))
}

/// Returns a layer that sends no time, because tonic would also enforce it, perhaps earlier.
fn untold() -> HttpClientLayer {
    HttpClientLayer::builder().without_hop_headers().build().unwrap()
}

#[tokio::test]
async fn an_open_circuit_is_unavailable() {
    let address = Scripted::new().serve().await;
    let breaker = CircuitBreakerLayer::new();
    breaker.handle().force_open();
    let channel = grpc::client(
        endpoint(address).connect_lazy(),
        Stack::new().circuit_breaker(breaker).http(),
    );
    let status = HealthClient::new(channel).check(asked("")).await.unwrap_err();
    assert_eq!(told(&status), (Code::Unavailable, "circuit_open"));
}

#[tokio::test]
async fn a_call_without_an_endpoint_is_unavailable() {
    let address = Scripted::new().serve().await;
    let endpoints = Endpoints::new([address], |address| endpoint(*address).connect_lazy());
    let fleet = endpoints.handle();
    let mut client =
        HealthClient::new(grpc::client(endpoints, Stack::standard(ReplaySafe::new()).http()));
    client.check(asked("")).await.unwrap();
    // The status is in the trailers of the response.
    let status = client.check(asked("ill")).await.unwrap_err();
    assert_eq!(told(&status), (Code::Unavailable, "no rejection"));
    assert_eq!(fleet.states().remove(0).failures, 1);
    fleet.drain(&address);
    let status = client.check(asked("")).await.unwrap_err();
    assert_eq!(told(&status), (Code::Unavailable, "no_endpoint"));
}

#[tokio::test]
async fn calls_go_to_another_endpoint_while_one_refuses_connections() {
    let (gone, listener) = listen().await;
    drop(listener);
    let address = Scripted::new().serve().await;
    let endpoints = Endpoints::new([gone, address], |address| endpoint(*address).connect_lazy());
    let fleet = endpoints.handle();
    let safe = ReplaySafe::new().grpc_methods_fn(|_| true);
    let mut client = HealthClient::new(grpc::client(endpoints, Stack::standard(safe).http()));
    for _ in 0..40 {
        client.check(asked("")).await.unwrap();
    }
    let [gone, well] = fleet.states().try_into().unwrap();
    assert!(gone.failures <= 5 && gone.failures == gone.calls, "{gone:?}");
    assert_eq!((well.calls, well.failures), (40, 0));
}

#[tokio::test]
async fn a_full_bulkhead_is_resource_exhausted() {
    let health = Scripted::new();
    let address = health.serve().await;
    let bulkhead = BulkheadLayer::builder().max_concurrent(1).build().unwrap();
    let slots = bulkhead.handle();
    let channel = endpoint(address).connect_lazy();
    let mut client =
        HealthClient::new(grpc::client(channel, Stack::new().bulkhead(bulkhead).http()));
    let mut other = client.clone();
    let held = tokio::spawn(async move { other.check(asked("held")).await });
    health.gate.arrived(1).await;

    let status = client.check(asked("")).await.unwrap_err();
    assert_eq!(told(&status), (Code::ResourceExhausted, "bulkhead_full"));
    health.gate.release(1);
    held.await.unwrap().unwrap();
    until_free(&slots).await;
}

#[tokio::test]
async fn a_wait_in_a_queue_that_was_in_vain_is_resource_exhausted() {
    let health = Scripted::new();
    let address = health.serve().await;
    let bulkhead = BulkheadLayer::builder().max_concurrent(1).queue(1, SECOND).build().unwrap();
    let slots = bulkhead.handle();
    let channel = endpoint(address).connect_lazy();
    let client = HealthClient::new(grpc::client(channel, Stack::new().bulkhead(bulkhead).http()));
    let [mut one, mut other] = [client.clone(), client];
    let held = tokio::spawn(async move { one.check(asked("held")).await });
    health.gate.arrived(1).await;
    let queued = tokio::spawn(async move { other.check(asked("")).await });
    until("a call is queued", || slots.queued() == 1).await;

    elapse(SECOND).await;
    let status = queued.await.unwrap().unwrap_err();
    assert_eq!(told(&status), (Code::ResourceExhausted, "queue_timed_out"));
    health.gate.release(1);
    held.await.unwrap().unwrap();
    until_free(&slots).await;
}

#[tokio::test]
async fn an_attempt_or_a_call_that_is_ended_has_exceeded_its_deadline() {
    let health = Scripted::new();
    let address = health.serve().await;
    let channel = || endpoint(address).connect_lazy();
    let attempt = Stack::new().attempt_timeout(SECOND).http_client(untold());
    let total = Stack::new().total_timeout(SECOND).http_client(untold());
    let mut attempt = HealthClient::new(grpc::client(channel(), attempt));
    let mut total = HealthClient::new(grpc::client(channel(), total));
    let calls = [
        tokio::spawn(async move { attempt.check(asked("held")).await }),
        tokio::spawn(async move { total.check(asked("held")).await }),
    ];
    health.gate.arrived(2).await;
    elapse(SECOND).await;
    for call in calls {
        let status = call.await.unwrap().unwrap_err();
        assert_eq!(told(&status), (Code::DeadlineExceeded, "timed_out"));
    }
}

#[tokio::test]
async fn a_call_that_comes_too_late_has_exceeded_its_deadline_and_is_not_made() {
    let health = Scripted::new();
    let address = health.serve().await;
    let stack = Stack::new().total_timeout(SECOND).http();
    let mut client = HealthClient::new(grpc::client(endpoint(address).connect_lazy(), stack));
    let past = Deadline::after(Duration::ZERO);
    let status = Deadline::scope(past, client.check(asked(""))).await.unwrap().unwrap_err();
    assert_eq!(told(&status), (Code::DeadlineExceeded, "deadline_exceeded"));
    assert!(health.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_interceptor_goes_above_the_stack_and_what_it_rejects_is_not_sent() {
    let health = Scripted::new();
    let channel = endpoint(health.serve().await).connect_lazy();
    let authorize = |mut request: Request<()>| {
        if request.metadata().contains_key("anonymous") {
            return Err(Status::unauthenticated("who are you?"));
        }
        request.metadata_mut().insert("authorization", MetadataValue::from_static("me"));
        Ok(request)
    };
    let channel = grpc::client(channel, Stack::new().http());
    let mut client = HealthClient::with_interceptor(channel, authorize);

    client.check(asked("")).await.unwrap();
    assert_eq!(health.seen.lock().unwrap()[0]["authorization"], "me");
    let mut request = Request::new(asked(""));
    request.metadata_mut().insert("anonymous", MetadataValue::from_static("yes"));
    assert_eq!(client.check(request).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(health.seen.lock().unwrap().len(), 1);
}
