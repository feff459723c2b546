//! Tests of faults of the bodies of an axum server.

use std::time::Duration;

use axum::{Router, routing::get};
use buttress::http::chaos::BodyChaosLayer;
use http::{Method, Version, header};
use http_body_util::BodyExt;

use super::support::{exchange, page, serve_axum};

/// Hyper asks for no more of a body once it has sent the whole length.
#[tokio::test]
async fn a_body_of_one_frame_is_cut_off_too_and_the_cut_is_counted() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let chaos = BodyChaosLayer::builder().cuts(1.0).build().unwrap();
        let app = Router::new().route("/", get(async || "a page")).layer(chaos.clone());
        let address = serve_axum(app).await;
        for is_armed in [true, false] {
            match is_armed {
                true => chaos.handle().arm_for(Duration::from_secs(3_600)).unwrap(),
                false => chaos.handle().disarm(),
            }
            let request = page(version, Method::GET, address, "/");
            let response = exchange(address, request).await;
            assert_eq!(response.headers()[header::CONTENT_LENGTH], "6");
            let body = response.into_body().collect().await;
            assert_eq!(body.is_err(), is_armed, "{version:?}: {body:?}");
            assert_eq!(chaos.handle().injected(), 1, "{version:?}");
        }
    }
}
