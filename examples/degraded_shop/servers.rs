//! The servers of the shop, whose faults a script makes.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    future::pending,
    io, mem,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use buttress::{
    BoxError, Stack,
    bulkhead::BulkheadLayer,
    http::{
        HttpServerLayer,
        idempotency::{HeaderKey, ReadHttp, RecordHttp},
    },
    idempotency::{IdempotencyLayer, store::MemoryStore},
};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpSocket},
    task::{JoinHandle, JoinSet},
    time::sleep,
};
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneSyncService};

/// The number of servers that have the pages of the shop.
pub(crate) const SHOPS: usize = 3;

/// The path of the health checks, which do not count as requests.
pub(crate) const HEALTH: &str = "/health";

/// The number of connections that may wait until they are accepted.
const BACKLOG: u32 = 128;

/// The time that a server needs for a request.
const WORK: Duration = Duration::from_millis(5);

/// All servers that a page or a payment needs.
pub(crate) struct Servers {
    pub(crate) shops: [Server; SHOPS],
    pub(crate) rates: Server,
    pub(crate) recommendations: Server,
    pub(crate) payments: Server,
    ledger: Ledger,
}

impl Servers {
    pub(crate) async fn start() -> Result<Self, BoxError> {
        let ledger = Ledger::default();
        Ok(Self {
            shops: [
                Server::start(shows("books 1 to 20")).await?,
                Server::start(shows("books 1 to 20")).await?,
                Server::start(shows("books 1 to 20")).await?,
            ],
            rates: Server::start(shows("1 EUR is 1.08 USD")).await?,
            recommendations: Server::start(shows("book 7, book 12")).await?,
            payments: Server::start(guarded(ledger.clone())?).await?,
            ledger,
        })
    }

    /// Returns how many charges there are, and how many customers have more than one.
    pub(crate) fn charges(&self) -> (u64, u64) {
        let ledger = lock(&self.ledger);
        (ledger.values().sum(), ledger.values().filter(|charges| **charges > 1).count() as u64)
    }
}

/// The number of charges of each customer.
type Ledger = Arc<Mutex<HashMap<String, u64>>>;

/// The fault of a server.
#[derive(Clone, Copy, Default, PartialEq)]
pub(crate) enum Fault {
    #[default]
    None,
    /// It accepts requests and never responds.
    Hangs,
    /// It responds with 503.
    Unavailable,
    /// It does what is asked, and then closes the connection instead of responding. It responds
    /// when it is asked again.
    LosesResponses,
}

type Handler = BoxCloneSyncService<Request<Incoming>, Reply, Infallible>;
type Reply = Response<UnsyncBoxBody<Bytes, BoxError>>;

/// A server on a socket of this machine.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    handler: Handler,
    shared: Arc<Shared>,
    socket: Mutex<Socket>,
}

enum Socket {
    Accepts(JoinHandle<()>),
    /// The port is bound, so that no other program gets it. Connections are refused.
    Refuses(TcpSocket),
    Closed,
}

#[derive(Default)]
struct Shared {
    fault: Mutex<Fault>,
    requests: AtomicU64,
    checks: AtomicU64,
    /// The requests whose responses were lost.
    lost: Mutex<HashSet<String>>,
}

impl Server {
    async fn start(handler: Handler) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::default();
        let accepting = tokio::spawn(accept(listener, handler.clone(), Arc::clone(&shared)));
        Ok(Self { address, handler, shared, socket: Mutex::new(Socket::Accepts(accepting)) })
    }

    /// Returns how many requests arrived. Health checks do not count.
    pub(crate) fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Returns how many health checks arrived.
    pub(crate) fn checks(&self) -> u64 {
        self.shared.checks.load(Ordering::Relaxed)
    }

    /// Makes a fault. Requests that hang already do not end by it.
    pub(crate) fn set(&self, fault: Fault) {
        *lock(&self.shared.fault) = fault;
    }

    /// Closes the socket and all connections.
    pub(crate) async fn kill(&self) -> io::Result<()> {
        let socket = mem::replace(&mut *lock(&self.socket), Socket::Closed);
        if let Socket::Accepts(task) = socket {
            task.abort();
            _ = task.await;
        }
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(self.address)?;
        *lock(&self.socket) = Socket::Refuses(socket);
        Ok(())
    }

    /// Opens the socket again after [`kill`](Self::kill).
    pub(crate) fn revive(&self) -> io::Result<()> {
        let mut socket = lock(&self.socket);
        if let Socket::Refuses(bound) = mem::replace(&mut *socket, Socket::Closed) {
            let listener = bound.listen(BACKLOG)?;
            let accepting = accept(listener, self.handler.clone(), Arc::clone(&self.shared));
            *socket = Socket::Accepts(tokio::spawn(accepting));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Socket::Accepts(task) = &*lock(&self.socket) {
            task.abort();
        }
    }
}

/// Accepts connections. Aborting this task closes all of them.
async fn accept(listener: TcpListener, handler: Handler, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let (handler, shared) = (handler.clone(), Arc::clone(&shared));
        let service = hyper::service::service_fn(move |request| {
            respond(request, handler.clone(), Arc::clone(&shared))
        });
        connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

/// Responds to a request. An error closes the connection.
async fn respond(
    request: Request<Incoming>,
    handler: Handler,
    shared: Arc<Shared>,
) -> Result<Reply, BoxError> {
    let path = request.uri().path().to_owned();
    let count = if path == HEALTH { &shared.checks } else { &shared.requests };
    count.fetch_add(1, Ordering::Relaxed);
    let fault = *lock(&shared.fault);
    match fault {
        Fault::Hangs => pending().await,
        Fault::Unavailable => {
            let mut response = Response::new(boxed(Full::default()));
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            return Ok(response);
        }
        Fault::None | Fault::LosesResponses => {}
    }
    let Ok(response) = handler.oneshot(request).await;
    if fault == Fault::LosesResponses && lock(&shared.lost).insert(path) {
        return Err("the response is lost".into());
    }
    Ok(response)
}

/// Creates a handler that responds to every request with this text.
fn shows(text: &'static str) -> Handler {
    BoxCloneSyncService::new(service_fn(move |_| async move {
        sleep(WORK).await;
        Ok(Response::new(boxed(Full::from(text))))
    }))
}

/// Creates the handler of payments, behind an idempotency layer.
///
/// A payment without a key is not guarded, so that a client without a key is served, too.
fn guarded(ledger: Ledger) -> Result<Handler, BoxError> {
    let key = HeaderKey::builder().optional().build()?;
    let guard =
        IdempotencyLayer::builder(MemoryStore::new(), key, ReadHttp::new(), RecordHttp::new())
            .single_tenant()
            .build()?;
    let stack = Stack::new().bulkhead(BulkheadLayer::default());
    let server = HttpServerLayer::builder(stack).outside(guard).build()?;
    let charge = service_fn(move |request: Request<_>| charge(request, ledger.clone()));
    let server = server.layer(charge);
    Ok(BoxCloneSyncService::new(server.map_response(|response| response.map(boxed))))
}

/// Charges the customer that the path names.
async fn charge<B>(
    request: Request<B>,
    ledger: Ledger,
) -> Result<Response<Full<Bytes>>, Infallible> {
    *lock(&ledger).entry(request.uri().path().to_owned()).or_default() += 1;
    sleep(WORK).await;
    Ok(Response::new(Full::from("paid")))
}

fn boxed<B>(body: B) -> UnsyncBoxBody<Bytes, BoxError>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    body.map_err(Into::into).boxed_unsync()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
