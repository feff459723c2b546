//! The contract kit, run on what speaks HTTP.
#![cfg(feature = "http")]

use std::{fmt, time::Duration};

use buttress::{
    CarryRejection, Error, Stack,
    bulkhead::BulkheadLayer,
    circuit_breaker::CircuitBreakerLayer,
    http::{
        ClientLayer, IdempotencyKeyLayer, ReplayBody, ReplayBodyLayer, ReplaySafe, UntilEnd,
        grpc::FirstFrameLayer,
    },
    testing::contract::{Contract, Finding, Inner, Report, Verdict},
};
use http::{Request, Response};
use tower::{Layer, Service};

type Failure = Error<fmt::Error>;
type Subject<E> = Inner<Response<String>, E>;

fn contract<E, B>(error: fn() -> E, body: fn() -> B) -> Contract<Request<B>, Response<String>, E>
where
    E: Send + 'static,
    B: 'static,
{
    Contract::new(
        move || Request::get("/").body(body()).unwrap(),
        || Response::new("two".into()),
        error,
    )
}

fn failing() -> Failure {
    Error::Service(fmt::Error)
}

async fn check<E, B, S>(
    name: &str,
    contract: Contract<Request<B>, Response<String>, E>,
    make: impl FnMut(Subject<E>) -> S + Send,
) where
    E: fmt::Debug + Send + 'static,
    B: Send + 'static,
    S: Service<Request<B>, Error: fmt::Debug> + Clone,
{
    let report: Report =
        contract.check_with(make, || tokio::time::advance(Duration::from_millis(10))).await;
    let broken: Vec<String> = report.failures().map(ToString::to_string).collect();
    assert!(broken.is_empty(), "{name}:\n{}", broken.join("\n"));
    let passed = |finding: &&Finding| *finding.verdict() == Verdict::Passed;
    let checks = report.findings().filter(passed).count();
    assert!(checks >= 24, "{name}: only {checks} checks");
}

fn standard() -> buttress::stack::StandardStack<ReplaySafe> {
    let bulkhead = BulkheadLayer::builder().max_concurrent(1).build().unwrap();
    Stack::standard(ReplaySafe::new()).bulkhead(bulkhead)
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn every_layer_that_speaks_http_keeps_every_rule() {
    let text = || contract(failing, String::new);
    check("Client", text(), |inner| ClientLayer::new().layer(inner)).await;
    let first_frame = FirstFrameLayer::new(|_: &str| true);
    check("FirstFrame", text(), |inner| first_frame.layer(inner)).await;
    check("ReplayBodies", text(), |inner| {
        ReplayBodyLayer::new().layer(tower::util::MapRequest::new(
            inner,
            (|_: Request<ReplayBody<String>>| Request::new(String::new()))
                as fn(Request<ReplayBody<String>>) -> Request<String>,
        ))
    })
    .await;
    let keys = IdempotencyKeyLayer::new().for_requests(|_| true);
    check("IdempotencyKey", text(), |inner| keys.layer(inner)).await;
    check("Bulkhead until the end", text(), |inner| {
        let bulkhead = BulkheadLayer::builder().max_concurrent(1).build().unwrap();
        UntilEnd::new(bulkhead).layer(ClientLayer::new().layer(inner))
    })
    .await;
    check("CircuitBreaker until the end", text(), |inner| {
        UntilEnd::new(CircuitBreakerLayer::new()).layer(ClientLayer::new().layer(inner))
    })
    .await;
    check("Stack", text(), |inner| Stack::new().http().layer(inner)).await;
    check("Stack standard", text().always_ready(), |inner| standard().http().layer(inner)).await;
    check("Stack standard service", contract(|| fmt::Error, String::new).always_ready(), |inner| {
        standard().http().service::<_, Request<String>>(inner)
    })
    .await;
}

#[test]
fn a_refusal_passes_through_a_stack_that_speaks_http() {
    let breaker = CircuitBreakerLayer::new();
    breaker.handle().force_open();
    let stack = standard().circuit_breaker(breaker).http();
    let report = contract(failing, String::new).check_refusing(|inner| stack.layer(inner));
    let broken: Vec<String> = report.failures().map(ToString::to_string).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(failing().rejection().is_none());
}
