//! The servers. Each runs one operation, which ends as a case says, and counts.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Extension, Router,
    body::Body,
    extract::{DefaultBodyLimit, State},
    response::{IntoResponse, Response},
};
use buttress::{
    CarryRejection, Rejection, Stack,
    bulkhead::BulkheadLayer,
    http::{HttpServerLayer, ReplaySafe, idempotency::NotStarted},
    idempotency::{IdempotencyLayer, store::MemoryStore},
};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, channel::Channel};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::sleep,
};
use tower::ServiceExt;

use super::{
    client::{ATTEMPT, Client},
    table::{By, Case, Server},
};

/// The length of a large response.
const LARGE: usize = 4 << 20;

/// The servers of one cell.
pub(crate) struct Served {
    pub(crate) operation: Arc<Operation>,
    /// The servers on the way, the one nearest to the client first.
    pub(crate) hops: Vec<Arc<Hop>>,
    /// The address of the first.
    pub(crate) address: SocketAddr,
}

/// The operation of a cell.
pub(crate) struct Operation {
    case: Case,
    /// The body of each request.
    body: Bytes,
    pub(crate) effects: AtomicU32,
    /// Set by the first request.
    called: AtomicBool,
    hop: Arc<Hop>,
}

/// One server, and the number of its requests.
#[derive(Default)]
pub(crate) struct Hop {
    pub(crate) requests: AtomicU32,
    /// Set once a connection was reset.
    has_reset: AtomicBool,
    /// Told of each response but the one to the first request.
    responded: Notify,
}

impl Server {
    pub(crate) async fn serve(self, case: Case, body: Bytes) -> Served {
        let hop = Arc::<Hop>::default();
        let operation = Arc::new(Operation {
            case,
            body,
            effects: AtomicU32::default(),
            called: AtomicBool::default(),
            hop: hop.clone(),
        });
        let app = Router::new().fallback(operate).with_state(operation.clone());
        let app = match self {
            Self::Plain | Self::Proxy | Self::GuardedProxy => app,
            Self::Layered => layered(app),
            Self::Guard | Self::ProxyToGuard => guarded(app),
        };
        let last = serve(app, hop.clone(), Some(case)).await;
        let honours_keys = self == Self::ProxyToGuard;
        let proxy = match self {
            Self::Plain | Self::Layered | Self::Guard => {
                return Served { operation, hops: vec![hop], address: last };
            }
            Self::Proxy | Self::ProxyToGuard => layered(proxy(last, honours_keys)),
            Self::GuardedProxy => guarded(proxy(last, honours_keys)),
        };
        let first = Arc::<Hop>::default();
        let address = serve(proxy, first.clone(), None).await;
        Served { operation, hops: vec![first, hop], address }
    }
}

/// Puts our server layer in front of a server.
fn layered(app: Router) -> Router {
    app.layer(HttpServerLayer::new(Stack::new().bulkhead(BulkheadLayer::default())))
}

/// Puts our server layer with a guard in front of a server.
fn guarded(app: Router) -> Router {
    let guard = IdempotencyLayer::http(MemoryStore::new()).single_tenant().build().unwrap();
    let server = HttpServerLayer::builder(Stack::new().bulkhead(BulkheadLayer::default()));
    app.layer(server.outside(guard).build().unwrap())
}

/// Serves HTTP/1, and resets the connection of a response that the case selects.
async fn serve(app: Router, hop: Arc<Hop>, case: Option<Case>) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = app.layer(DefaultBodyLimit::disable());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(connection(stream, app.clone(), hop.clone(), case));
        }
    });
    address
}

async fn connection(stream: TcpStream, app: Router, hop: Arc<Hop>, case: Option<Case>) {
    let reset = Notify::new();
    let service = service_fn(|request: Request<Incoming>| {
        let app = app.clone();
        let (hop, reset) = (&hop, &reset);
        async move {
            let first = hop.requests.fetch_add(1, Relaxed) == 0;
            let path = request.uri().path().to_owned();
            let Ok(response) = app.oneshot(request.map(Body::new)).await;
            if case.is_some_and(|case| case.resets(&path)) && !hop.has_reset.swap(true, Relaxed) {
                reset.notify_one();
                std::future::pending::<()>().await;
            }
            if !first {
                hop.responded.notify_one();
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        _ = &mut connection => {}
        () = reset.notified() => {
            let stream = connection.into_parts().io.into_inner();
            stream.set_zero_linger().unwrap();
        }
    }
}

/// Runs the operation, or a part of it at another path.
async fn operate(
    State(operation): State<Arc<Operation>>,
    uri: Uri,
    method: Method,
    body: Bytes,
) -> Response {
    let at = uri.path();
    // A request is complete, whichever attempt it is.
    if method == Method::POST {
        assert!(body == operation.body, "{:?}: another body at {at}", operation.case);
    }
    let first = !operation.called.swap(true, Relaxed);
    match operation.case {
        Case::Status(status @ 400..500) => return status_of(status).into_response(),
        Case::NotStarted if first => {
            return (StatusCode::SERVICE_UNAVAILABLE, Extension(NotStarted)).into_response();
        }
        Case::TooMany if first => {
            return (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "1")]).into_response();
        }
        Case::Moved(status) if at == "/pay" => return redirect(status, "/moved"),
        Case::SeeOther(_) | Case::SeeOtherReset if at == "/receipt" => return paid(),
        _ => {}
    }
    operation.effects.fetch_add(1, Relaxed);
    match operation.case {
        Case::Status(status) => status_of(status).into_response(),
        Case::FailsReset | Case::UploadFails => StatusCode::BAD_GATEWAY.into_response(),
        Case::SeeOther(status) => redirect(status, "/receipt"),
        Case::SeeOtherReset => redirect(303, "/receipt"),
        Case::Hang if first => {
            operation.hop.responded.notified().await;
            paid()
        }
        Case::Large | Case::LargeReset => vec![b'x'; LARGE].into_response(),
        Case::Broken => cut_off(),
        _ => paid(),
    }
}

fn paid() -> Response {
    "paid".into_response()
}

fn redirect(status: u16, to: &'static str) -> Response {
    (status_of(status), [(header::LOCATION, to)]).into_response()
}

/// Returns a response whose head is written before its body breaks off.
fn cut_off() -> Response {
    let (mut sender, body) = Channel::<_, io::Error>::new(1);
    tokio::spawn(async move {
        sender.send_data(Bytes::from_static(b"pa")).await.unwrap();
        sleep(Duration::from_millis(20)).await;
        sender.abort(io::ErrorKind::BrokenPipe.into());
    });
    Body::new(body).into_response()
}

fn status_of(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap()
}

/// Returns a server that forwards each request through our adapter for reqwest.
fn proxy(upstream: SocketAddr, honours_keys: bool) -> Router {
    let safe = ReplaySafe::new().upstream_honours_key_fn(move |_| honours_keys);
    let stack = Stack::standard(safe).http().attempt_timeout(ATTEMPT * 3 / 2);
    let client = By::Reqwest.client(stack);
    Router::new().fallback(forward).with_state((client, upstream))
}

async fn forward(
    State((client, upstream)): State<(Client, SocketAddr)>,
    request: axum::extract::Request,
) -> Response {
    let (head, body) = request.into_parts();
    let body = String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap();
    let mut sent = Request::new(body);
    *sent.method_mut() = head.method;
    *sent.uri_mut() = format!("http://{upstream}{}", head.uri).parse().unwrap();
    *sent.headers_mut() = head.headers;
    end_to_end(sent.headers_mut());
    match client.oneshot(sent).await {
        Ok(mut response) => {
            end_to_end(response.headers_mut());
            response.map(Body::new)
        }
        Err(error) => match error.rejection() {
            Some(Rejection::TimedOut(_) | Rejection::DeadlineExceeded(_)) => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Some(_) => StatusCode::SERVICE_UNAVAILABLE,
            None => StatusCode::BAD_GATEWAY,
        }
        .into_response(),
    }
}

/// Removes the headers of one connection.
fn end_to_end(headers: &mut HeaderMap) {
    for name in
        [header::HOST, header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING]
    {
        headers.remove(name);
    }
}
