//! Tests of the fallback of HTTP and gRPC calls.
#![cfg(feature = "http")]

mod capture;
mod http_support;

use std::{future::ready, io, time::Duration};

use buttress::{
    Deadline, Rejection, Stack,
    bulkhead::BulkheadLayer,
    fallback::{FallbackLayer, Reason},
    http::{Degraded, HttpClientLayer, ReplaySafe, UntilEnd},
    retry::replay_fn,
    telemetry::{DegradedBy, Registry, Value, field},
};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceBuilder, ServiceExt};

use self::{capture::Capture, http_support::*};

const SECOND: Duration = Duration::from_secs(1);

fn page() -> Response<&'static str> {
    Response::builder().header("content-type", "application/json").body("[]").unwrap()
}

fn body(text: &'static str) -> Body {
    Full::from(text)
}

#[tokio::test(start_paused = true)]
async fn statuses_of_an_outage_fall_back_and_no_others() {
    for (status, falls_back) in [
        (503, true),
        (500, true),
        (429, true),
        (408, true),
        (200, false),
        (404, false),
        (409, false),
    ] {
        let upstream = Upstream::saying([answer(status, &[])]);
        let stack = Stack::new().http().fallback(FallbackLayer::http(page()));
        let client = stack.service::<_, Request<Body>, _>(upstream);
        let response = client.oneshot(Protocol::Http.request(&[])).await.unwrap();
        let degraded = response.extensions().get::<Degraded>().cloned();
        assert_eq!(degraded.is_some(), falls_back, "{status}");
        let expected = if falls_back { 200 } else { status };
        assert_eq!(response.status().as_u16(), expected);
        let Some(degraded) = degraded else { continue };
        assert_eq!((degraded.source(), degraded.age()), (DegradedBy::Fallback, None));
        assert!(matches!(degraded.reason(), Reason::Failed(_)), "{degraded:?}");
        assert_eq!(response.headers().len(), 1, "no header is added");
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "[]");
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_can_be_given_many_times_and_says_why() {
    let upstream = Upstream::new(|_| ready(Err(io::ErrorKind::ConnectionReset.into())));
    let stack = Stack::standard(ReplaySafe::new()).http().fallback(FallbackLayer::http(page()));
    let fallback = stack.fallback_handle().unwrap();
    let client = stack.service::<_, Request<Body>, _>(upstream);
    let mut reasons = Vec::new();
    for _ in 0..40 {
        let response = client.clone().oneshot(Protocol::Http.request(&[])).await.unwrap();
        reasons.push(response.extensions().get::<Degraded>().unwrap().reason().clone());
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "[]");
    }
    assert!(matches!(reasons[0], Reason::Failed(_)), "{}", reasons[0]);
    let last = reasons.last().unwrap();
    assert!(matches!(last, Reason::Rejected(Rejection::CircuitOpen(_))), "{last}");
    fallback.switch_off();
    let response = client.oneshot(Protocol::Http.request(&[])).await.unwrap();
    let degraded = response.extensions().get::<Degraded>().unwrap();
    assert_eq!((degraded.source(), degraded.reason()), (DegradedBy::Off, &Reason::Off));
}

#[tokio::test(start_paused = true)]
async fn the_failed_response_holds_nothing_when_the_fallback_runs() {
    let one = BulkheadLayer::builder().max_concurrent(1).build().unwrap();
    let copies = replay_fn(|request: &Request<Body>| Some(request.clone()));
    let other = Upstream::saying([answer(200, &[]).map(|_| body("elsewhere"))]);
    let through_the_same = |upstream| {
        let layers = ServiceBuilder::new()
            .layer(UntilEnd::new(one.clone()))
            .layer(HttpClientLayer::new())
            .map_err(buttress::Error::Service);
        layers.service(upstream)
    };
    let failing = Upstream::saying([answer(503, &[]).map(|_| body("down"))]);
    let fallback = FallbackLayer::service(copies, through_the_same(other));
    let client = UntilEnd::new(fallback).layer(through_the_same(failing));
    let response = client.oneshot(Protocol::Http.request(&[])).await.unwrap();
    assert_eq!(one.handle().in_flight(), 1, "that of the other service");
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "elsewhere");
    assert_eq!(one.handle().in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn without_a_fallback_the_failed_response_is_whole() {
    let registry = Registry::new();
    let upstream = Upstream::saying([answer(503, &[("retry-after", "7")]).map(|_| body("down"))]);
    let none = FallbackLayer::from_fn(|_| (), |(), _| async { None });
    let stack = Stack::new().name("shelf").register(&registry).http().fallback(none);
    let client = stack.service::<_, Request<Body>, _>(upstream);
    let response = client.clone().oneshot(Protocol::Http.request(&[])).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "7");
    assert!(response.extensions().get::<Degraded>().is_none());
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "down");
    assert_eq!(calls(&registry, "failure"), 1);
}

/// Returns the number of calls that ended in this way.
fn calls(registry: &Registry, outcome: &str) -> u64 {
    let families = registry.gather();
    let series = families.iter().filter(|it| it.instrument.name == "buttress.call.duration");
    let mut series = series.flat_map(|family| &family.series);
    let series = series.find(|it| it.attribute(field::OUTCOME) == Some(outcome));
    match &series.unwrap().value {
        Value::Histogram(snapshot) => snapshot.count(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_went_elsewhere_ends_as_degraded_with_its_body() {
    let (capture, _guard) = Capture::start();
    let registry = Registry::new();
    let copies = replay_fn(|request: &Request<Body>| Some(request.clone()));
    let other = Upstream::saying([answer(200, &[]).map(|_| body("elsewhere"))]);
    let other = Stack::new().http().service::<_, Request<Body>, _>(other);
    let stack = Stack::new().name("shelf").register(&registry);
    let stack = stack.http().fallback(FallbackLayer::service(copies, other));
    let client = stack.service::<_, Request<Body>, _>(Upstream::saying([answer(503, &[])]));
    let response = client.clone().oneshot(Protocol::Http.request(&[])).await.unwrap();
    assert!(response.extensions().get::<Degraded>().is_some());
    assert_eq!(calls(&registry, "degraded"), 0);
    response.into_body().collect().await.unwrap();
    assert_eq!((calls(&registry, "degraded"), calls(&registry, "success")), (1, 0));
    let spans = capture.spans();
    let outer = spans.iter().find(|span| span.get(field::STACK) == Some("shelf")).unwrap();
    assert_eq!(outer.get(field::OUTCOME), Some("degraded"));
    assert_eq!(outer.get(field::SOURCE), Some("fallback"));
}

#[tokio::test(start_paused = true)]
async fn callers_with_less_time_than_the_total_get_the_fallback() {
    for time in [SECOND, 3 * SECOND, 5 * SECOND] {
        let stack = Stack::standard(ReplaySafe::new()).http();
        let client = stack.fallback(FallbackLayer::http(page()));
        let client = client.service::<_, Request<Body>, _>(Upstream::hanging());
        let call = client.oneshot(Protocol::Http.request(&[]));
        let response = Deadline::scope(Deadline::after(time), call).await.unwrap().unwrap();
        assert_eq!(response.status(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn around_a_method_of_a_grpc_client_the_response_is_a_message() {
    // As a generated client does, with the method call as a service.
    let method = tower::service_fn(|name: String| async move {
        Err::<String, _>(buttress::Error::Service(format!("{name}: UNAVAILABLE")))
    });
    let greeting = FallbackLayer::from_fn(
        |name: &String| name.clone(),
        |name, _| async move { Some(format!("hello from here, {name}")) },
    );
    assert_eq!(greeting.layer(method).oneshot("Ann".into()).await.unwrap(), "hello from here, Ann");
}
