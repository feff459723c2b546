//! Errors of tonic's channel.

use std::time::Duration;

use buttress::BoxError;
use http::Request;
use tokio::net::TcpListener;
use tonic::{
    Code, Status,
    body::Body,
    transport::{Channel, Endpoint},
};
use tower::ServiceExt;

use super::{Judged, Rows, judged, judged_by_ref, peer::Frames};

/// Makes a call through a channel.
///
/// Classifies the error of the channel and the status that tonic makes of it. They must agree.
async fn failed(channel: Channel) -> Judged {
    let request = Request::post("/shop.Orders/Place").body(Body::empty()).unwrap();
    let error = BoxError::from(channel.oneshot(request).await.unwrap_err());
    let alone = judged_by_ref(&error);
    assert_eq!(alone, judged(Status::from_error(error)));
    alone
}

async fn listen() -> (Endpoint, TcpListener) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (Endpoint::try_from(format!("http://{address}")).unwrap(), listener)
}

/// Makes a call to a server that gives back each request.
async fn excluded() -> Judged {
    let (endpoint, listener) = listen().await;
    tokio::spawn(async move {
        let mut frames = Frames::begin(listener.accept().await.unwrap().0).await.unwrap();
        let id = frames.request().await.unwrap();
        frames.leave(id - 1).await.unwrap();
        std::future::pending::<()>().await;
    });
    failed(endpoint.connect_lazy()).await
}

/// Only tonic's own error is known by its text.
#[test]
fn the_text_of_tonics_error_proves_nothing_in_another_error() {
    for text in ["invalid URI", "tonic::transport::Error(InvalidUri)"] {
        let error = std::io::Error::other(text);
        assert_eq!(judged(error), ("transient", "if safe", ""), "{text}");
    }
}

pub(crate) async fn rows() -> Rows {
    let (nowhere, listener) = listen().await;
    drop(listener);
    let (silent, _listener) = listen().await;
    let late = silent.timeout(Duration::from_millis(20)).connect_lazy();
    // A frequent mistake: an address without a scheme.
    let no_scheme = Endpoint::from_static("localhost").connect_lazy();
    vec![
        ("tonic `ConnectError`", failed(nowhere.connect_lazy()).await),
        ("tonic `TimeoutExpired`", failed(late).await),
        ("tonic `transport::Error(InvalidUri)`", failed(no_scheme).await),
        ("tonic `transport::Error(Transport)`, such as a GOAWAY", excluded().await),
        ("tonic `Status` of a server", judged(Status::new(Code::Unavailable, "ill"))),
    ]
}
