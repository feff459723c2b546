//! Errors of hyper and hyper-util.

use std::{error::Error as StdError, io::ErrorKind, time::Duration};

use buttress::BoxError;
use http::{Method, Request, Response, Version};
use http_body::{Body, Frame};
use http_body_util::{Full, StreamBody};
use hyper::{
    body::Bytes,
    client::conn::{http1, http2},
    upgrade,
};
use hyper_util::{
    client::legacy::{Builder, Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::{io::AsyncWriteExt, task::yield_now, time};
use tokio_stream::{iter, pending};

use super::{
    Rows, judged,
    peer::{Wire, answer, connector, wire},
};

pub(crate) fn get(uri: &str) -> Request<Full<Bytes>> {
    Request::get(uri).body(Full::default()).unwrap()
}

pub(crate) async fn rows() -> Rows {
    let mut rows = client_rows().await;
    rows.extend(connection_rows().await);
    rows.extend(own_rows().await);
    rows
}

fn builder() -> Builder {
    Client::builder(TokioExecutor::new())
}

/// Makes the errors of hyper-util's client itself.
async fn client_rows() -> Rows {
    let plain = || builder().build::<_, Full<Bytes>>(HttpConnector::new());
    let by = |wires| builder().build::<_, Full<Bytes>>(connector(wires));
    let refused = by(vec![]).request(get("http://a/")).await.unwrap_err();
    let late = vec![Err(ErrorKind::TimedOut.into())];
    let late = by(late).request(get("http://a/")).await.unwrap_err();
    let tls = plain().request(get("https://a/")).await.unwrap_err();
    let relative = plain().request(get("/a")).await.unwrap_err();
    let mut version = get("http://a/");
    *version.version_mut() = Version::HTTP_3;
    let version = plain().request(version).await.unwrap_err();
    let mut method = get("http://a/");
    *method.method_mut() = Method::CONNECT;
    *method.version_mut() = Version::HTTP_10;
    let method = plain().request(method).await.unwrap_err();
    vec![
        ("hyper-util `Connect`", judged(refused)),
        ("hyper-util `Connect`, by a timeout", judged(late)),
        ("hyper-util `Connect`, invalid URL", judged(tls)),
        ("hyper-util `Connect`, closed in the pool", judged(closed_in_the_pool().await)),
        ("hyper-util `Canceled`", judged(given_back().await)),
        ("hyper-util `UserAbsoluteUriRequired`", judged(relative)),
        ("hyper-util `UserUnsupportedVersion`", judged(version)),
        ("hyper-util `UserUnsupportedRequestMethod`", judged(method)),
    ]
}

/// Sends a request into a pooled connection that has just ended.
async fn given_back() -> impl StdError + Send + Sync + 'static {
    let (client, mut server) = wire();
    let client =
        builder().retry_canceled_requests(false).build::<_, Full<Bytes>>(connector([Ok(client)]));
    let answered = answer(&mut server, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let (response, ()) = tokio::join!(client.request(get("http://a/")), answered);
    drop(response.unwrap());
    // The connection returns to the pool.
    yield_now().await;
    drop(server);
    // The task of the connection has not noticed its end.
    client.request(get("http://a/")).await.unwrap_err()
}

/// Waits for the connection of another call, which ends before the waiting call gets it.
async fn closed_in_the_pool() -> impl StdError + Send + Sync + 'static {
    let (client, mut server) = wire();
    // The connection can be made, and ends when its task runs.
    server.shutdown().await.unwrap();
    let client = builder()
        .http2_only(true)
        .retry_canceled_requests(false)
        .build::<_, Full<Bytes>>(connector([Ok(client)]));
    let connecting = tokio::spawn(client.request(get("http://a/")));
    let waiting = tokio::spawn(client.request(get("http://a/")));
    connecting.await.unwrap().unwrap_err();
    waiting.await.unwrap().unwrap_err()
}

/// Connects over HTTP/1, and runs the connection.
async fn connect<B>(client: Wire) -> (http1::SendRequest<B>, tokio::task::AbortHandle)
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(client)).await.unwrap();
    (sender, tokio::spawn(connection.with_upgrades()).abort_handle())
}

/// Sends a request to a server that responds so and then leaves.
async fn answered_by(response: &str) -> hyper::Error {
    let (client, mut server) = wire();
    let (mut sender, _) = connect(client).await;
    let (result, ()) = tokio::join!(sender.send_request(get("/")), async {
        answer(&mut server, response).await;
        drop(server);
    });
    result.unwrap_err()
}

/// Sends a request with this body, and with its length if it has one.
async fn sending<B>(body: B) -> hyper::Error
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let (client, _server) = wire();
    let (mut sender, _) = connect(client).await;
    sender.send_request(Request::post("/").body(body).unwrap()).await.unwrap_err()
}

/// Makes the errors of a single connection.
async fn connection_rows() -> Rows {
    let (client, server) = wire();
    let (mut sender, _) = connect::<Full<Bytes>>(client).await;
    sender.ready().await.unwrap();
    drop(server);
    let canceled = sender.send_request(get("/")).await.unwrap_err();
    let not_ready = sender.send_request(get("/")).await.unwrap_err();
    let closed = sender.ready().await.unwrap_err();

    let (mut client, _server) = wire();
    client.write = Some(ErrorKind::BrokenPipe);
    let (mut sender, _) = connect(client).await;
    let unwritten = sender.send_request(get("/")).await.unwrap_err();

    let (mut client, mut server) = wire();
    client.read = Some(ErrorKind::ConnectionReset);
    let (mut sender, _) = connect(client).await;
    let broken = tokio::join!(sender.send_request(get("/")), answer(&mut server, "HTTP/1.1")).0;

    // The task of a connection also ends with its runtime.
    let (client, mut server) = wire();
    let (mut sender, connection) = connect(client).await;
    let gone = tokio::join!(sender.send_request(get("/")), async {
        answer(&mut server, "HTTP/1.1").await;
        connection.abort();
    });
    vec![
        ("hyper `Canceled`", judged(canceled)),
        ("hyper `Canceled`, not ready", judged(not_ready)),
        ("hyper `Canceled(UpgradeExpected)`", judged(cut_off_upgrade().await)),
        ("hyper `ChannelClosed`", judged(closed)),
        ("hyper `IncompleteMessage`", judged(answered_by("HTTP/1.1 200").await)),
        ("hyper `Parse`", judged(answered_by("no HTTP\r\n\r\n").await)),
        ("hyper `Io`", judged(broken.unwrap_err())),
        ("hyper `BodyWrite`", judged(unwritten)),
        ("hyper `Http2`, no response to a PING", judged(without_pong().await)),
        ("hyper `User(DispatchGone)`", judged(gone.0.unwrap_err())),
    ]
}

/// Waits for an upgrade on a connection that ends while the body of the request is written.
async fn cut_off_upgrade() -> hyper::Error {
    let (client, mut server) = wire();
    let (mut sender, _) = connect(client).await;
    let body = StreamBody::new(pending::<Result<Frame<Bytes>, BoxError>>());
    let request = sender.send_request(Request::post("/").body(body).unwrap());
    let switched = "HTTP/1.1 101 Switching Protocols\r\n\r\n";
    let (response, ()) = tokio::join!(request, answer(&mut server, switched));
    drop(server);
    upgrade::on(response.unwrap()).await.unwrap_err()
}

/// Waits for the response of a server that is silent.
async fn without_pong() -> hyper::Error {
    let (client, _server) = wire();
    time::pause();
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(1))
        .handshake(TokioIo::new(client))
        .await
        .unwrap();
    tokio::spawn(connection);
    let error = sender.send_request(get("http://a/")).await.unwrap_err();
    time::resume();
    error
}

/// A body that yields these frames and then ends.
fn body_of(
    frames: Vec<Result<Frame<Bytes>, BoxError>>,
) -> impl Body<Data = Bytes, Error = BoxError> + Send + Unpin + 'static {
    StreamBody::new(iter(frames))
}

/// A body that ends before its length.
struct Short;

impl Body for Short {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        std::task::Poll::Ready(None)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(9)
    }
}

/// A body that panics.
struct Panics;

impl Body for Panics {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        panic!("on purpose");
    }
}

/// Makes the errors of the caller's own requests.
async fn own_rows() -> Rows {
    // An error like the one of a dead server.
    let failed = sending(body_of(vec![Err(Box::new(std::io::Error::from(ErrorKind::TimedOut)))]));
    let (client, _server) = wire();
    let io = TokioIo::new(client);
    let (mut sender, connection) =
        http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let mut connect_with_body = Request::connect("http://a/").body(Full::from("body")).unwrap();
    connect_with_body.headers_mut().insert("content-length", 4.into());
    let connect_with_body = sender.send_request(connect_with_body).await.unwrap_err();
    let no_upgrade = upgrade::on(Response::new(())).await.unwrap_err();

    let (client, mut server) = wire();
    let (mut sender, connection) = http1::handshake(TokioIo::new(client)).await.unwrap();
    tokio::spawn(connection);
    let switched = "HTTP/1.1 101 Switching Protocols\r\n\r\n";
    let response =
        tokio::join!(sender.send_request(get("/")), answer(&mut server, switched)).0.unwrap();
    let manual_upgrade = upgrade::on(response).await.unwrap_err();
    vec![
        ("hyper `User(Body)`", judged(failed.await)),
        ("hyper `User(BodyWriteAborted)`", judged(sending(Short).await)),
        ("hyper `User(DispatchGone)`, by a panic", judged(sending(Panics).await)),
        ("hyper `User(InvalidConnectWithBody)`", judged(connect_with_body)),
        ("hyper `User(NoUpgrade)`", judged(no_upgrade)),
        ("hyper `User(ManualUpgrade)`", judged(manual_upgrade)),
    ]
}
