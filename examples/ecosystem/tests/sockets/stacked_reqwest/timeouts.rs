//! Tests of a request's own timeout, and of the timeouts of the client.

use std::{
    convert::Infallible,
    error::Error as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    response::IntoResponse,
};
use buttress::{
    CarryRejection, Error, Rejection,
    bulkhead::BulkheadLayer,
    circuit_breaker::CircuitBreakerLayer,
    http::{
        HttpClientLayer,
        reqwest::{ReqwestError, client},
    },
};
use http_body_util::channel::Channel;

use super::{
    super::support::{Gate, counted, elapse, serve_axum, until_free},
    Served, bare, serve, stack,
};

#[track_caller]
fn assert_timed_out<T>(result: Result<T, Error<ReqwestError>>) {
    let Err(error) = result else { panic!("it has not timed out") };
    assert_eq!(error.to_string(), "request timeout: timed out after 1s");
    assert!(matches!(error.rejection(), Some(Rejection::TimedOut(_))));
    assert!(error.source().unwrap().is::<Rejection>());
}

#[tokio::test]
async fn a_timeout_of_its_own_covers_all_attempts() {
    let gate = Gate::new();
    let waiting = gate.clone();
    let app = Router::new().fallback(async move || waiting.pass().await);
    let address = serve_axum(app).await;
    let (bulkhead, breaker) = (BulkheadLayer::default(), CircuitBreakerLayer::new());
    let (slots, handle) = (bulkhead.handle(), breaker.handle());
    // An attempt may take 600 ms, so the second one is cut.
    let stack = stack().bulkhead(bulkhead).circuit_breaker(breaker);
    let client = client(bare(), stack.attempt_timeout(Duration::from_millis(600)));

    let request = client.get(format!("http://{address}/")).timeout(Duration::from_secs(1));
    let call = tokio::spawn(request.send());
    gate.arrived(1).await;
    elapse(Duration::from_millis(700)).await;
    gate.arrived(1).await;
    assert_eq!(handle.snapshot().failures(), 1);
    elapse(Duration::from_millis(400)).await;
    assert_timed_out(call.await.unwrap());
    until_free(&slots).await;
}

/// Starts a server that sends the head of a response, and a body that stops after one frame.
async fn half() -> (Served, impl Sized) {
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
    sender.send_data(Bytes::from_static(b"half")).await.unwrap();
    let body = Arc::new(Mutex::new(Some(Body::new(body))));
    (serve(move |_, _| body.lock().unwrap().take().unwrap().into_response()).await, sender)
}

/// A `body_deadline` knows the limit too. Either of them may end the body.
#[tokio::test]
async fn a_timeout_of_its_own_covers_the_body() {
    let to_the_end = HttpClientLayer::builder().body_deadline().build().unwrap();
    for (stack, name) in
        [(stack(), "request timeout"), (stack().http_client(to_the_end), "response body")]
    {
        let (server, _sender) = half().await;
        let bulkhead = BulkheadLayer::default();
        let slots = bulkhead.handle();
        let client = client(bare(), stack.bulkhead(bulkhead));

        let request = client.get(server.url("/")).timeout(Duration::from_secs(1));
        let mut response = request.send().await.unwrap();
        assert_eq!(response.chunk().await.unwrap().unwrap(), "half");
        assert_eq!(slots.in_flight(), 1);
        let rest = tokio::spawn(response.text());
        tokio::task::yield_now().await;
        elapse(Duration::from_millis(1001)).await;
        let error = rest.await.unwrap().unwrap_err();
        assert!(error.is_timeout(), "{error:?}");
        let error = Error::<ReqwestError>::from(error);
        assert!(matches!(error.rejection(), Some(Rejection::TimedOut(_))));
        assert!(error.to_string().starts_with(&format!("{name}: timed out after ")), "{error}");
        assert_eq!(slots.in_flight(), 0);
    }
}

/// As with reqwest alone, a request's own timeout replaces that of the client.
#[tokio::test]
async fn a_timeout_of_the_client_ends_an_attempt_unless_the_request_has_its_own() {
    let gate = Gate::new();
    let waiting = gate.clone();
    let app = Router::new().fallback(async move || waiting.pass().await);
    let address = serve_axum(app).await;
    let breaker = CircuitBreakerLayer::new();
    let handle = breaker.handle();
    let builder = reqwest::Client::builder().no_proxy().timeout(Duration::from_millis(300));
    let client = client(builder.build().unwrap(), stack().circuit_breaker(breaker));
    let get = || client.get(format!("http://{address}/"));

    let call = tokio::spawn(get().timeout(Duration::from_secs(1)).send());
    gate.arrived(1).await;
    elapse(Duration::from_millis(400)).await;
    gate.release(1);
    assert!(call.await.unwrap().unwrap().status().is_success());
    assert_eq!(counted(&handle), (1, 0));

    let call = tokio::spawn(get().send());
    for _ in 0..4 {
        gate.arrived(1).await;
        elapse(Duration::from_millis(400)).await;
    }
    let error = call.await.unwrap().unwrap_err();
    assert!(error.service().unwrap().get_ref().is_timeout(), "{error:?}");
    assert_eq!(counted(&handle), (5, 4));
}
