//! Tests of the idempotency layer and the client's keys over sockets.
//!
//! The server loses responses, is slow, or panics.
#![cfg(feature = "http")]

use std::{
    convert::Infallible,
    error::Error,
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use buttress::{
    Stack,
    bulkhead::BulkheadLayer,
    http::{
        GivenKey, HttpServerLayer, ReplaySafe, SetIdempotencyKeyLayer,
        idempotency::NotStarted,
        wire::{GrpcCode, grpc_status},
    },
    idempotency::{IdempotencyHandle, IdempotencyLayer, Key, store::MemoryStore},
};
use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{Instant, sleep},
};
use tower::{Layer, ServiceExt, service_fn};

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;
type Body = BoxBody<Bytes, Infallible>;
type Hyper = Client<HttpConnector, Full<Bytes>>;

/// A server with the idempotency layer, and its counts.
struct Server {
    address: SocketAddr,
    runs: Arc<AtomicU32>,
    seen: Arc<Seen>,
    guard: IdempotencyHandle<MemoryStore<Vec<u8>>>,
}

#[derive(Default)]
struct Seen {
    keys: Mutex<Vec<String>>,
    /// The statuses of responses that were made while a caller still waited.
    statuses: Mutex<Vec<u16>>,
}

/// The responses that do not reach the client, because the connection is closed instead.
#[derive(Clone, Copy, PartialEq)]
enum Lost {
    None,
    First,
}

impl Server {
    /// Starts a server. `handler` gets the number of earlier runs.
    async fn start<F>(
        lost: Lost,
        handler: impl Fn(u32) -> F + Clone + Send + Sync + 'static,
    ) -> Outcome<Self>
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let layer = IdempotencyLayer::http(MemoryStore::new()).single_tenant().build()?;
        let (guard, runs, seen) =
            (layer.handle(), Arc::new(AtomicU32::new(0)), Arc::<Seen>::default());
        let handler = service_fn({
            let runs = Arc::clone(&runs);
            move |_: Request<_>| {
                let answer = handler(runs.fetch_add(1, Ordering::Relaxed));
                async move { Ok::<_, Infallible>(answer.await) }
            }
        });
        let stack = Stack::new().bulkhead(BulkheadLayer::default());
        let server = HttpServerLayer::builder(stack).outside(layer).build().unwrap().layer(handler);
        let front = service_fn({
            let seen = Arc::clone(&seen);
            move |request: Request<hyper::body::Incoming>| {
                let key = &request.headers()["idempotency-key"];
                let mut keys = seen.keys.lock().unwrap();
                let is_lost = lost == Lost::First && keys.is_empty();
                keys.push(key.to_str().unwrap().to_owned());
                let (answer, seen) = (server.clone().oneshot(request), Arc::clone(&seen));
                async move {
                    let Ok(answer) = answer.await;
                    seen.statuses.lock().unwrap().push(answer.status().as_u16());
                    if is_lost { Err(io::Error::other("lost")) } else { Ok(answer) }
                }
            }
        });
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = TowerToHyperService::new(front.clone());
                tokio::spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(Self { address, runs, seen, guard })
    }

    fn runs(&self) -> u32 {
        self.runs.load(Ordering::Relaxed)
    }

    fn statuses(&self) -> Vec<u16> {
        self.seen.statuses.lock().unwrap().clone()
    }

    /// Returns the number of requests, which all had one key.
    fn asked(&self) -> usize {
        let keys = self.seen.keys.lock().unwrap();
        assert!(keys.windows(2).all(|pair| pair[0] == pair[1]), "{keys:?}");
        keys.len()
    }

    fn request(&self) -> http::request::Builder {
        Request::post(format!("http://{}/payments", self.address))
    }

    /// Makes a payment through a full client stack.
    async fn pay(&self, request: http::request::Builder) -> Outcome<Answered> {
        let stack = Stack::standard(ReplaySafe::new())
            .attempt_timeout(Duration::from_millis(300))
            .http()
            .service(hyper(false));
        let client = SetIdempotencyKeyLayer::new().layer(stack);
        answered(client.oneshot(request.body(Full::from("42 EUR"))?).await?).await
    }

    /// Sends one request, without a stack.
    async fn ask(&self, client: &Hyper, request: http::request::Builder) -> Outcome<Answered> {
        let request = request.header("idempotency-key", "\"k\"").body(Full::from("42 EUR"))?;
        answered(client.request(request).await?).await
    }
}

fn hyper(http2: bool) -> Hyper {
    Client::builder(TokioExecutor::new()).http2_only(http2).build_http()
}

#[derive(Debug)]
struct Answered {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

impl Answered {
    fn replayed(&self) -> bool {
        self.headers.get("idempotency-replayed").is_some_and(|value| value == "true")
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

async fn answered<B>(response: Response<B>) -> Outcome<Answered>
where
    B: http_body::Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(Into::into)?;
    let trailers = body.trailers().cloned();
    Ok(Answered {
        status: head.status.as_u16(),
        headers: head.headers,
        body: body.to_bytes(),
        trailers,
    })
}

fn paid(before: u32) -> Response<Body> {
    let mut response = Response::new(Full::from(format!("payment {before}")).boxed());
    *response.status_mut() = StatusCode::CREATED;
    response
}

#[tokio::test]
async fn an_answer_that_is_lost_is_given_again() -> Outcome {
    let server = Server::start(Lost::First, |before| async move { paid(before) }).await?;
    let answer = server.pay(server.request()).await?;
    assert_eq!((answer.status, answer.replayed()), (201, true));
    assert_eq!(answer.body, "payment 0");
    assert_eq!((server.runs(), server.asked(), server.statuses()), (1, 2, vec![201, 201]));
    Ok(())
}

#[tokio::test]
async fn who_is_impatient_comes_back_for_the_answer_when_told_to() -> Outcome {
    let server = Server::start(Lost::None, |before| async move {
        sleep(Duration::from_millis(1_200)).await;
        paid(before)
    })
    .await?;
    let began = Instant::now();
    let answer = server.pay(server.request()).await?;
    assert_eq!((answer.status, answer.replayed()), (201, true));
    assert_eq!(answer.body, "payment 0");
    // The first caller got a timeout, if it was still there.
    assert!(server.statuses().ends_with(&[409, 201]), "{:?}", server.statuses());
    assert_eq!((server.runs(), server.asked()), (1, 3));
    assert!(began.elapsed() >= Duration::from_secs(1), "it came back too early");
    Ok(())
}

#[tokio::test]
async fn who_learns_that_nobody_knows_stops_at_once() -> Outcome {
    let server =
        Server::start(Lost::None, |_| async { panic!("in the handler, on purpose") }).await?;
    let given = || server.request().extension(GivenKey::new(Key::new("k").expect("a key")));
    // The panic closes the first connection. The response on the second is final.
    let answer = server.pay(given()).await?;
    assert_eq!((answer.status, answer.header("retry-after")), (409, None));
    assert!(String::from_utf8_lossy(&answer.body).contains("#variant.Unknown"));
    assert_eq!((server.runs(), server.asked()), (1, 2));

    let answer = server.pay(given()).await?;
    assert_eq!((answer.status, server.runs(), server.asked()), (409, 1, 3));
    assert_eq!(server.guard.count_unknown().await?, 1);
    Ok(())
}

#[tokio::test]
async fn what_was_rejected_before_it_began_can_be_asked_for_again() -> Outcome {
    let server = Server::start(Lost::None, |before| async move {
        let mut response = paid(before);
        if before == 0 {
            *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
            response.extensions_mut().insert(NotStarted);
        }
        response
    })
    .await?;
    let client = hyper(false);
    assert_eq!(server.ask(&client, server.request()).await?.status, 429);
    let answer = server.ask(&client, server.request()).await?;
    assert_eq!((answer.status, answer.replayed(), server.runs()), (201, false, 2));
    assert!(server.ask(&client, server.request()).await?.replayed());
    assert_eq!(server.runs(), 2);
    Ok(())
}

fn grpc_answer() -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("x-checksum", HeaderValue::from_static("7"));
    let frames = [Frame::data(Bytes::from_static(b"\0\0\0\0\x01a")), Frame::trailers(trailers)];
    let body = StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)));
    let mut response = Response::new(BodyExt::boxed(body));
    let kind = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", kind);
    response
}

fn grpc(server: &Server) -> http::request::Builder {
    server.request().header("content-type", "application/grpc").header("te", "trailers")
}

#[tokio::test]
async fn a_call_of_grpc_is_replayed_with_its_trailers() -> Outcome {
    let server = Server::start(Lost::None, |_| async { grpc_answer() }).await?;
    let client = hyper(true);
    let first = server.ask(&client, grpc(&server)).await?;
    let again = server.ask(&client, grpc(&server)).await?;
    assert_eq!((first.replayed(), again.replayed(), server.runs()), (false, true, 1));
    assert_eq!((first.status, &*first.body), (200, &b"\0\0\0\0\x01a"[..]));
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    assert_eq!(again.header("content-type"), Some("application/grpc"));
    let trailers = again.trailers.ok_or("no trailers")?;
    assert_eq!((&trailers["grpc-status"], &trailers["x-checksum"]), (&"0".parse()?, &"7".parse()?));
    assert_eq!(Some(trailers), first.trailers);
    Ok(())
}

#[tokio::test]
async fn a_caller_of_grpc_is_told_by_status_and_pushback() -> Outcome {
    let (begun, may_end) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let server = Server::start(Lost::None, {
        let (begun, may_end) = (Arc::clone(&begun), Arc::clone(&may_end));
        move |_| {
            let (begun, may_end) = (Arc::clone(&begun), Arc::clone(&may_end));
            async move {
                begun.add_permits(1);
                let _ = may_end.acquire().await;
                panic!("in the handler, on purpose")
            }
        }
    })
    .await?;
    let client = hyper(true);
    let during = async {
        let _begun = begun.acquire().await?;
        let duplicate = server.ask(&client, grpc(&server)).await;
        may_end.add_permits(1);
        duplicate
    };
    let (first, duplicate) = tokio::join!(server.ask(&client, grpc(&server)), during);
    assert!(first.is_err(), "{first:?}");
    let duplicate = duplicate?;
    assert_eq!((duplicate.status, grpc_status(&duplicate.headers)), (200, Some(GrpcCode::Aborted)));
    assert_eq!(duplicate.header("grpc-retry-pushback-ms"), Some("1000"));

    let unknown = server.ask(&client, grpc(&server)).await?;
    let code = grpc_status(&unknown.headers);
    assert_eq!((unknown.status, code), (200, Some(GrpcCode::FailedPrecondition)));
    assert_eq!(unknown.header("grpc-retry-pushback-ms"), None);
    assert_eq!(server.runs(), 1);
    Ok(())
}
