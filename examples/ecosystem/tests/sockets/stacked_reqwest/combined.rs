//! Tests of a stack around a reqwest client, together with other parts of this crate.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use axum::{Router, extract::Request, response::IntoResponse, routing::post};
use buttress::{
    Error, Rejection, Stack,
    circuit_breaker::{CircuitBreakerLayer, State},
    http::{GivenKey, HttpServerLayer, SetIdempotencyKeyLayer, by_authority, reqwest::client},
    idempotency::{IdempotencyLayer, Key, store::MemoryStore},
};
use http::StatusCode;

use super::{
    super::support::{counted, listen, serve_axum},
    bare, serve, stack,
};

#[tokio::test]
async fn a_failure_that_our_guard_recorded_is_final() {
    let runs = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&runs);
    let pay = async move || {
        counter.fetch_add(1, Ordering::Relaxed);
        StatusCode::BAD_GATEWAY
    };
    let guard = IdempotencyLayer::http(MemoryStore::new())
        .scope_fn(|_: &Request| Some("shop".to_owned()))
        .build()
        .unwrap();
    let server = HttpServerLayer::builder(Stack::new()).outside(guard).build().unwrap();
    let address = serve_axum(Router::new().route("/", post(pay).layer(server))).await;
    let breaker = CircuitBreakerLayer::new();
    let handle = breaker.handle();
    let stack = stack().circuit_breaker(breaker).around_call(SetIdempotencyKeyLayer::new());
    let client = client(bare(), stack);

    for (replayed, counts) in [(false, (1, 1)), (true, (2, 1))] {
        let key = GivenKey::new(Key::new("payment-4711").unwrap());
        let request = http::Request::post(format!("http://{address}/")).extension(key);
        let request = request.body("42").unwrap().try_into().unwrap();
        let response = client.execute(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
        assert_eq!(response.headers().contains_key("idempotency-replayed"), replayed);
        drop(response);
        assert_eq!((runs.load(Ordering::Relaxed), counted(&handle)), (1, counts));
    }
}

#[tokio::test]
async fn each_authority_has_its_own_breaker() {
    let server = serve(|_, _| StatusCode::OK.into_response()).await;
    let (gone, listener) = listen().await;
    drop(listener);
    let breakers = CircuitBreakerLayer::builder().keyed_fn(by_authority).build().unwrap();
    let client = client(bare(), stack().circuit_breaker(breakers.clone()));
    let get = async |url: String| client.get(url).send().await;

    let dead = format!("http://{gone}/");
    while !matches!(get(dead.clone()).await, Err(Error::Rejected(Rejection::CircuitOpen(_)))) {}
    assert!(get(server.url("/")).await.unwrap().status().is_success());
    let state = |authority: String| breakers.handle(&authority).unwrap().state();
    assert_eq!(state(gone.to_string()), State::Open);
    assert_eq!(state(server.address.to_string()), State::Closed);
}

#[tokio::test]
async fn a_fresh_stack_makes_a_client_that_shares_nothing() {
    let breaker = CircuitBreakerLayer::new();
    let stack = stack().circuit_breaker(breaker.clone());
    let server = serve(|_, _| StatusCode::OK.into_response()).await;
    let (orders, payments) = (client(bare(), stack.fresh()), client(bare(), stack));
    breaker.handle().force_open();
    assert!(payments.get(server.url("/")).send().await.is_err());
    assert!(orders.get(server.url("/")).send().await.is_ok());
}
