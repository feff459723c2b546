use std::{
    convert::Infallible,
    future::ready,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, mpsc},
    time::{Duration, Instant},
};

use buttress::{Stack, bulkhead::BulkheadLayer, http::HttpServerLayer};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::{client::legacy::Client, rt::TokioExecutor, service::TowerToHyperService};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Builder,
    task::yield_now,
    time::sleep,
};
use tower::{Layer, Service, service_fn};

use super::{
    script::{Feed, Step},
    wire::{Version, get},
    *,
};

const SECOND: Duration = Duration::from_secs(1);
/// The default time after which a response that is not read gives its slot back.
const UNREAD: Duration = Duration::from_secs(30);

const FRAMES: usize = 64;
const FRAME_BYTES: usize = 1 << 20;

/// Returns more data than sockets and windows hold.
fn endless() -> Feed {
    static FRAME: OnceLock<String> = OnceLock::new();
    let frame = FRAME.get_or_init(|| "a".repeat(FRAME_BYTES));
    Feed::new((0..FRAMES).map(|_| Step::Data(frame)).chain([Step::Closed]))
}

/// Starts a server whose only response has the body of this feed, with a limit up to its end.
async fn server(version: Version, feed: &Feed, limit: Option<Duration>) -> (SocketAddr, Handles) {
    let books = Books::new();
    let handles = books.handles();
    let stack = Stack::new().bulkhead(books.slots).circuit_breaker(books.breaker);
    let mut layer = HttpServerLayer::builder(stack);
    if let Some(limit) = limit {
        layer = layer.limit(limit).body_deadline();
    }
    let feed = feed.clone();
    let handler = service_fn(move |_: Request<Incoming>| {
        ready(Ok::<_, Infallible>(Response::new(feed.body())))
    });
    let service = layer.build().unwrap().layer(handler);
    (version.serve(TowerToHyperService::new(service)).await, handles)
}

/// A response of which nobody has read more than its head.
enum Unread {
    Http1(TcpStream),
    Http2(Incoming),
}

impl Unread {
    async fn ask(version: Version, address: SocketAddr) -> Self {
        match version {
            Version::Http1 => {
                let mut socket = TcpStream::connect(address).await.unwrap();
                let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
                socket.write_all(request).await.unwrap();
                Self::Http1(socket)
            }
            Version::Http2 => {
                let response = version.client().request(get(address)).await.unwrap();
                Self::Http2(response.into_body())
            }
        }
    }

    /// Reads the rest, and returns how much data it has. It is an error if the rest was cut off.
    async fn read(self) -> Result<usize, ()> {
        match self {
            Self::Http1(mut socket) => {
                let mut read = Vec::new();
                socket.read_to_end(&mut read).await.map_err(drop)?;
                let whole = read.ends_with(b"\r\n0\r\n\r\n");
                whole.then(|| read.iter().filter(|byte| **byte == b'a').count()).ok_or(())
            }
            Self::Http2(body) => Ok(body.collect().await.map_err(drop)?.to_bytes().len()),
        }
    }
}

#[tokio::test]
async fn a_reader_that_never_reads_gives_its_slot_back() {
    for version in Version::BOTH {
        let feed = endless();
        let (address, handles) = server(version, &feed, None).await;
        let unread = Unread::ask(version, address).await;
        handles.until(UNDER_WAY).await;
        tokio::time::pause();
        sleep(UNREAD - SECOND).await;
        assert_eq!(handles.seen(), UNDER_WAY, "{version:?}");
        sleep(SECOND * 2).await;
        assert_eq!(handles.seen(), SUCCESS, "{version:?}");
        tokio::time::resume();
        // Only the slot was given back. The reader may still read.
        assert!(!feed.is_dropped());
        let read = unread.read().await.unwrap();
        assert!(read >= FRAMES * FRAME_BYTES, "{version:?}: {read}");
        assert_eq!(handles.seen(), SUCCESS, "{version:?}");
    }
}

#[tokio::test]
async fn a_limit_of_the_body_ends_one_that_is_never_read() {
    for version in Version::BOTH {
        let feed = endless();
        let (address, handles) = server(version, &feed, Some(SECOND * 5)).await;
        let unread = Unread::ask(version, address).await;
        handles.until(UNDER_WAY).await;
        tokio::time::pause();
        sleep(SECOND * 4).await;
        assert_eq!(handles.seen(), UNDER_WAY, "{version:?}");
        sleep(SECOND * 2).await;
        assert_eq!(handles.seen(), SUCCESS, "{version:?}");
        assert!(feed.is_dropped(), "{version:?}");
        tokio::time::resume();
        assert!(unread.read().await.is_err(), "the caller must not take it for whole");
    }
}

/// Asks for a response that is never read, over HTTP/2 even without a window for its data.
async fn ask_and_leave(version: Version, window: Option<u32>, address: SocketAddr) -> Unread {
    let Some(window) = window else { return Unread::ask(version, address).await };
    let mut client = Client::builder(TokioExecutor::new());
    client.http2_only(true).http2_initial_stream_window_size(window);
    let response = client.build_http::<Empty<Bytes>>().request(get(address)).await;
    Unread::Http2(response.unwrap().into_body())
}

#[tokio::test]
async fn a_reader_that_never_reads_keeps_no_other_caller_out() {
    let hostile = [(Version::Http1, None), (Version::Http2, None), (Version::Http2, Some(0))];
    for (version, window) in hostile {
        let slot = BulkheadLayer::builder().max_concurrent(1).build().unwrap();
        let handle = slot.handle();
        let layer = HttpServerLayer::new(Stack::new().bulkhead(slot));
        let feeds =
            Arc::new(Mutex::new(vec![Feed::new([Step::Data("a"), Step::Closed]), endless()]));
        let handler = service_fn(move |_: Request<Incoming>| {
            let feed = feeds.lock().unwrap().pop().unwrap();
            ready(Ok::<_, Infallible>(Response::new(feed.body())))
        });
        let address = version.serve(TowerToHyperService::new(layer.layer(handler))).await;
        let unread = ask_and_leave(version, window, address).await;
        soon(|| handle.in_flight() == 1).await;
        let client = version.client();
        assert_eq!(client.request(get(address)).await.unwrap().status(), 503);
        tokio::time::pause();
        sleep(UNREAD + SECOND).await;
        tokio::time::resume();
        let response = client.request(get(address)).await.unwrap();
        assert_eq!(response.status(), 200, "{version:?}, {window:?}");
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "a");
        drop(unread);
    }
}

/// Reads one frame of each response, and then leaves it.
///
/// The test is a race that the broken code loses in most runs. The correct code never fails.
#[test]
fn a_reader_on_another_thread_than_the_timers_never_stops() {
    const READERS: usize = 4;
    let runtime = Builder::new_multi_thread().worker_threads(3).enable_time().build().unwrap();
    let layer = HttpServerLayer::builder(Stack::new());
    let layer = layer.body_idle(Duration::from_micros(500)).build().unwrap();
    let (done, readers) = mpsc::channel();
    for _ in 0..READERS {
        let handler = service_fn(|_: Request<Empty<Bytes>>| async {
            Ok::<_, Infallible>(Response::new(Feed::new([Step::Data("a"), Step::End]).body()))
        });
        let (mut service, done) = (layer.layer(handler), done.clone());
        runtime.spawn(async move {
            let began = Instant::now();
            while began.elapsed() < SECOND * 2 {
                for _ in 0..100 {
                    let response = service.call(Request::new(Empty::new())).await.unwrap();
                    let _ = response.into_body().frame().await;
                }
                yield_now().await;
            }
            done.send(()).unwrap();
        });
    }
    let stopped = (0..READERS).filter(|_| readers.recv_timeout(SECOND * 30).is_err()).count();
    // A thread that waits for itself would keep the runtime from ending.
    runtime.shutdown_background();
    assert_eq!(stopped, 0);
}
