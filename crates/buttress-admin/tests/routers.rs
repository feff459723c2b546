//! The service in routers and servers, over sockets.

use std::{convert::Infallible, net::SocketAddr};

use axum::{Router, routing::get};
use buttress::telemetry::Registry;
use buttress_admin::Admin;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpStream};

fn admin() -> Admin {
    Admin::new(&Registry::new()).at("/buttress")
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn serve(router: Router) -> SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(async { axum::serve(listener, router).await });
    address
}

type Served = (StatusCode, String, String);

async fn served(response: http::Response<hyper::body::Incoming>) -> Served {
    let status = response.status();
    let content_type = response.headers().get("content-type").cloned();
    let content_type = content_type.map_or_else(String::new, |it| it.to_str().unwrap().to_owned());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, content_type, String::from_utf8_lossy(&body).into_owned())
}

async fn over_http1(address: SocketAddr, method: &str, path: &str) -> Served {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", address.to_string());
    served(sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap()).await
}

async fn over_http2(address: SocketAddr, host: &str, path: &str) -> Served {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("http://{host}{path}"));
    served(sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap()).await
}

/// Asks for each path, over both versions of HTTP.
async fn check(address: SocketAddr) {
    for (path, content_type, part) in [
        ("/buttress", "text/html; charset=utf-8", "<!doctype html>"),
        ("/buttress/", "text/html; charset=utf-8", "<!doctype html>"),
        ("/buttress/metrics", "", "buttress_info{"),
        ("/buttress/state.json", "application/json", "\"dependencies\""),
    ] {
        for served in
            [over_http1(address, "GET", path).await, over_http2(address, "localhost", path).await]
        {
            assert_eq!(served.0, 200, "{path}");
            assert!(served.1.starts_with(content_type), "{path}: {}", served.1);
            assert!(served.2.contains(part), "{path}: {}", served.2);
        }
        assert_eq!(over_http2(address, "evil.example", path).await.0, 403, "{path}");
        let (status, _, body) = over_http1(address, "HEAD", path).await;
        assert_eq!((status, &*body), (StatusCode::OK, ""), "{path}");
    }
    assert_eq!(over_http1(address, "GET", "/buttress/nothing").await.0, 404);
    assert_eq!(over_http1(address, "POST", "/buttress/control").await.0, 403);
}

#[tokio::test]
async fn axum_nests_it() {
    let router = Router::new().route("/", get(|| async { "app" }));
    let address = serve(router.nest_service("/buttress", admin())).await;
    check(address).await;
    assert_eq!(over_http1(address, "GET", "/").await.2, "app");
    assert_eq!(over_http1(address, "GET", "/metrics").await.0, 404);
}

#[tokio::test]
async fn axum_nests_it_without_a_path_of_its_own() {
    let admin = Admin::new(&Registry::new());
    check(serve(Router::new().nest_service("/buttress", admin)).await).await;
}

#[tokio::test]
async fn axum_falls_back_to_it() {
    let router = Router::new().route("/app", get(|| async { "app" }));
    let address = serve(router.fallback_service(admin())).await;
    check(address).await;
    assert_eq!(over_http1(address, "GET", "/app").await.2, "app");
}

#[tokio::test]
async fn hyper_serves_it_alone() {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(admin());
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    check(address).await;
}

#[tokio::test]
async fn tonic_serves_it_beside_its_own_services() {
    let (_, health) = tonic_health::server::health_reporter();
    let router = tonic::service::Routes::new(health).into_axum_router();
    let address = serve(router.nest_service("/buttress", admin())).await;
    check(address).await;
    let channel = tonic::transport::Endpoint::new(format!("http://{address}")).unwrap();
    let mut client =
        tonic_health::pb::health_client::HealthClient::new(channel.connect().await.unwrap());
    let request = tonic_health::pb::HealthCheckRequest { service: String::new() };
    assert_eq!(client.check(request).await.unwrap().into_inner().status, 1);
}

#[test]
fn it_is_a_service_for_any_body() {
    fn takes<B, S>(_: &S)
    where
        S: tower::Service<Request<B>, Error = Infallible, Response: Send, Future: Send + 'static>
            + Clone
            + Send
            + Sync
            + 'static,
    {
    }

    let admin = admin();
    takes::<axum::body::Body, _>(&admin);
    takes::<hyper::body::Incoming, _>(&admin);
    takes::<tonic::body::Body, _>(&admin);
    takes::<String, _>(&admin);
    takes::<Empty<&'static [u8]>, _>(&admin);
}
