//! Errors of h2, through hyper's client.

use buttress::BoxError;
use http::{Request, Version};
use http_body::{Body, Frame};
use http_body_util::StreamBody;
use hyper::{body::Bytes, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::DuplexStream;
use tokio_stream::iter;

use super::{
    Rows,
    hyper::get,
    judged,
    peer::{DATA, Frames, RST_STREAM, SETTINGS, wire},
};

const INTERNAL_ERROR: [u8; 4] = [0, 0, 0, 2];
const REFUSED_STREAM: [u8; 4] = [0, 0, 0, 7];

/// Sends a request to a server that does this when the request has arrived.
async fn sent<B>(
    request: Request<B>,
    deed: impl AsyncFnOnce(&mut Frames<DuplexStream>, u32) -> std::io::Result<()>,
) -> hyper::Error
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    let (client, server) = wire();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(client)).await.unwrap();
    tokio::spawn(connection);
    let serving = async {
        let mut frames = Frames::begin(server).await.unwrap();
        let id = frames.request().await.unwrap();
        deed(&mut frames, id).await.unwrap();
        // The connection stays open.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        result = sender.send_request(request) => result.unwrap_err(),
        () = serving => unreachable!(),
    }
}

pub(crate) async fn rows() -> Rows {
    let to = || get("http://a/");
    let refused =
        sent(to(), async |frames, id| frames.send(RST_STREAM, 0, id, &REFUSED_STREAM).await);
    let excluded = sent(to(), async |frames, id| frames.leave(id - 1).await);
    let reset =
        sent(to(), async |frames, id| frames.send(RST_STREAM, 0, id, &INTERNAL_ERROR).await);
    // A response must begin with its head.
    let stream_error = sent(to(), async |frames, id| frames.send(DATA, 0, id, b"body").await);
    // The length of settings is a multiple of six.
    let protocol_error = sent(to(), async |frames, _| frames.send(SETTINGS, 0, 0, b"bad").await);
    let broken = sent(to(), async |frames, _| frames.close().await);
    let own: Vec<Result<Frame<Bytes>, BoxError>> = vec![Err("own".into())];
    let own = Request::post("http://a/").body(StreamBody::new(iter(own))).unwrap();
    let own = sent(own, async |_, _| Ok(()));
    let mut relative = get("/a");
    *relative.version_mut() = Version::HTTP_2;
    let relative = sent(relative, async |_, _| Ok(()));
    vec![
        ("h2 `Reset`, refused stream", judged(refused.await)),
        ("h2 `GoAway` by the server", judged(excluded.await)),
        ("h2 `Reset` by the server, any other", judged(reset.await)),
        ("h2 `Reset` by the library", judged(stream_error.await)),
        ("h2 `GoAway` by the library", judged(protocol_error.await)),
        ("h2 `Io`", judged(broken.await)),
        ("h2 `Reset` by the user", judged(own.await)),
        ("h2 `User`", judged(relative.await)),
    ]
}
