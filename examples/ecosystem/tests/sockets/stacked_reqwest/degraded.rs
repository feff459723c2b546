//! Tests of a fallback and a cache in the stack around a reqwest client.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Json,
    response::{IntoResponse, Redirect},
};
use buttress::{
    cache::CacheLayer,
    fallback::FallbackLayer,
    http::{Degraded, reqwest::client},
    telemetry::DegradedBy,
};
use http::StatusCode;
use serde_json::{Value, json};

use super::{bare, serve, stack};

#[tokio::test]
async fn json_is_read_from_an_older_response_and_from_a_fallback() {
    let down = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&down);
    let server = serve(move |_, before| match switch.load(Ordering::Relaxed) {
        true => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        false => Json(json!({ "apples": before })).into_response(),
    })
    .await;
    let none = http::Response::builder().header("content-type", "application/json");
    let none = FallbackLayer::http(none.body(r#"{"apples":null}"#).unwrap());
    let cache = CacheLayer::http().last_good(Duration::from_secs(60)).build().unwrap();
    let client = client(bare(), stack().fallback(none).cache(cache));
    let cases = [
        (false, "/a", None, json!(0)),
        (true, "/a", Some(DegradedBy::Stale), json!(0)),
        (true, "/b", Some(DegradedBy::Fallback), Value::Null),
    ];
    for (is_down, path, source, apples) in cases {
        down.store(is_down, Ordering::Relaxed);
        let response = client.get(server.url(path)).send().await.unwrap();
        let response = response.error_for_status().unwrap();
        assert_eq!(response.extensions().get().map(Degraded::source), source, "{path}");
        assert_eq!(response.url().as_str(), server.url(path), "{source:?}");
        assert_eq!(response.json::<Value>().await.unwrap(), json!({ "apples": apples }));
    }
}

#[tokio::test]
async fn a_kept_response_is_read_by_several_callers() {
    let server = serve(|_, before| format!("response {before}").into_response()).await;
    let cache = CacheLayer::http().build().unwrap();
    let client = client(bare(), stack().cache(cache));
    let get = async || client.get(server.url("/")).send().await.unwrap().text().await.unwrap();
    let texts: [String; 3] = tokio::join!(get(), get(), get()).into();
    assert_eq!(texts, ["response 0"; 3]);
    assert_eq!(get().await, "response 0");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_kept_response_has_the_url_to_which_the_client_was_redirected() {
    let server = serve(|seen, _| match seen.path.as_str() {
        "/old" => Redirect::permanent("/new").into_response(),
        _ => "moved".into_response(),
    })
    .await;
    let client = client(bare(), stack().cache(CacheLayer::http().build().unwrap()));
    for _ in 0..2 {
        let response = client.get(server.url("/old")).send().await.unwrap();
        assert_eq!(response.url().as_str(), server.url("/new"), "{:?}", response.headers());
        assert_eq!(response.text().await.unwrap(), "moved");
    }
    assert_eq!(server.seen().len(), 2);
}
