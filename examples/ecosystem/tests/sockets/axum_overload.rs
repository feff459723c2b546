//! A test of an axum server with more callers than its bulkhead admits.

use axum::{Router, extract::State, routing::get};
use buttress::{Stack, bulkhead::BulkheadLayer, http::HttpServerLayer};
use http::{Method, StatusCode, Version, header};
use http_body_util::BodyExt;
use tokio::task::JoinSet;

use super::support::{Gate, exchange, page, serve_axum, until_free};

async fn served(State(gate): State<Gate>) -> &'static str {
    gate.pass().await;
    "served"
}

#[tokio::test]
async fn as_many_as_there_is_room_for_are_served_and_the_others_are_told_when_to_come_back() {
    for full in [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS] {
        let bulkhead = BulkheadLayer::builder().max_concurrent(5).build().unwrap();
        let slots = bulkhead.handle();
        let layer = HttpServerLayer::builder(Stack::new().bulkhead(bulkhead)).full_status(full);
        let layer = layer.build().unwrap();
        let gate = Gate::new();
        let app = Router::new().route("/", get(served)).with_state(gate.clone()).layer(layer);
        let address = serve_axum(app).await;

        let mut calls = JoinSet::new();
        for _ in 0..20 {
            calls.spawn(async move {
                let request = page(Version::HTTP_11, Method::GET, address, "/");
                let (head, body) = exchange(address, request).await.into_parts();
                (head, body.collect().await.unwrap().to_bytes())
            });
        }
        gate.arrived(5).await;
        for _ in 0..15 {
            let (head, body) = calls.join_next().await.unwrap().unwrap();
            assert_eq!(head.status, full);
            assert_eq!(head.headers[header::RETRY_AFTER], "1");
            assert_eq!(head.headers[header::CONTENT_TYPE], "application/problem+json");
            assert_eq!(head.headers[header::CONTENT_LENGTH], body.len().to_string());
        }
        assert_eq!(slots.in_flight(), 5);
        gate.release(5);
        for _ in 0..5 {
            let (head, body) = calls.join_next().await.unwrap().unwrap();
            assert_eq!((head.status, &body[..]), (StatusCode::OK, &b"served"[..]));
            assert_eq!(head.headers[header::CONTENT_LENGTH], "6");
            assert!(!head.headers.contains_key(header::TRANSFER_ENCODING));
        }
        assert!(calls.is_empty());
        until_free(&slots).await;
    }
}
