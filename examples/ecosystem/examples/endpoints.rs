//! Calls three servers through hyper, reqwest and tonic, while one of the servers is out.
//!
//! ```sh
//! cargo run -p ecosystem --example endpoints
//! ```
//!
//! The three clients make 500 calls a second, or fewer on a loaded machine. One after the other, a
//! server is killed, another one hangs, the third fails at once, and one is drained. Each fault
//! lasts 2 s. The example prints how many calls failed, how many retries they needed, and how soon
//! the server got calls from all clients again. The example fails if a call fails, if a server that
//! works again gets no calls after two checks, or if a drained server gets calls. One call may fail
//! while a server fails at once.

use std::{
    future::{pending, ready},
    io,
    net::{SocketAddr, TcpListener},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    body::HttpBody,
    extract::{Request as AxumRequest, State},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use buttress::{
    BoxError, ConfigError, Stack,
    endpoints::{Check, EndpointStatus, Endpoints, EndpointsHandle, check_fn},
    http::{HttpCheck, ReplaySafe, grpc, reqwest::ReqwestClient},
};
use bytes::Bytes;
use http::{Request, StatusCode, Uri, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use reqwest::redirect::Policy;
use serde_json::json;
use tokio::{
    runtime::{self, Runtime},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tonic::{
    Status,
    service::Routes,
    transport::{Channel, Endpoint},
};
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, health_client::HealthClient, health_server::HealthServer},
    server::{HealthReporter, HealthService},
};
use tower::{Layer, Service, ServiceExt, service_fn, util::BoxCloneSyncService};

const CALLS_PER_SECOND: u32 = 500;
/// The time for which a server is out.
const OUT: Duration = Duration::from_secs(2);
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
const CHECK_TIMEOUT: Duration = CHECK_INTERVAL;
const ATTEMPT: Duration = Duration::from_secs(1);
/// Two checks, which may be 10 % late, a check that hangs, and the turn of the server.
const BACK: Duration = Duration::from_millis(2 * 550 + 500 + 250);

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    let mut servers = [Server::start()?, Server::start()?, Server::start()?];
    let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
    let clients = [hyper(&addresses)?, reqwest(&addresses)?, tonic(&addresses)?];
    for client in &clients {
        // The first calls of a client make its connections.
        client.call.clone().oneshot(()).await?;
    }

    println!(
        "server        calls  failed  retries of hyper, reqwest, tonic  gets calls again after"
    );
    let mut phases = Vec::new();
    for (out, server, allowed) in
        [(Out::Killed, 0, 0), (Out::Hanging, 1, 0), (Out::Failing, 2, 1), (Out::Drained, 0, 0)]
    {
        let phase = Phase::run(out, &mut servers[server], &clients).await?;
        let Phase { calls, failed, retries, back } = &phase;
        let name = out.name();
        let told = back.map_or("never".to_owned(), |back| format!("{} ms", back.as_millis()));
        let each = retries.iter().map(|it| format!("{it:>8}")).collect::<String>();
        println!("{name:<12}  {calls:>5}  {failed:>6}  {each:>32}  {told}");
        let is_ok = *failed <= allowed && back.is_some_and(|back| back <= BACK);
        phases.push((
            is_ok,
            json!({
                "server": name,
                "calls": calls,
                "failed": failed,
                "retries": retries.iter().sum::<u64>(),
                "back_ms": back.map(|back| back.as_millis() as u64),
            }),
        ));
    }
    let (ok, phases): (Vec<_>, Vec<_>) = phases.into_iter().unzip();
    println!("summary {}", json!({ "phases": phases }));
    Ok(if ok.into_iter().all(|it| it) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The reason for which a server gets no calls.
#[derive(Clone, Copy, PartialEq)]
enum Out {
    Killed = 1,
    Hanging,
    Failing,
    Drained,
}

impl Out {
    fn name(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Hanging => "hanging",
            Self::Failing => "failing fast",
            Self::Drained => "drained",
        }
    }
}

/// The calls while a server is out, and until it is back.
struct Phase {
    calls: u32,
    failed: u32,
    /// The retries of each client.
    retries: Vec<u64>,
    back: Option<Duration>,
}

impl Phase {
    async fn run(out: Out, server: &mut Server, clients: &[ShopClient]) -> Result<Self, BoxError> {
        let address = server.address;
        let attempts = || clients.iter().map(ShopClient::attempts).collect::<Vec<_>>();
        let before = attempts();
        let mut traffic = Traffic::new(clients);
        traffic.run(|| false, OUT / 4).await;
        match out {
            Out::Killed => server.kill(),
            Out::Hanging | Out::Failing => server.set(out),
            Out::Drained => clients.iter().for_each(|it| _ = it.fleet.drain(&address)),
        }
        let at_server = || clients.iter().map(|it| it.calls_at(address)).collect::<Vec<_>>();
        let begun = at_server();
        traffic.run(|| false, OUT).await;
        let (while_out, back_at) = (at_server(), Instant::now());
        if out == Out::Drained && while_out != begun {
            return Err("a drained server got calls".into());
        }
        match out {
            Out::Killed => server.revive()?,
            Out::Hanging | Out::Failing => server.set_well(),
            Out::Drained => clients.iter().for_each(|it| _ = it.fleet.insert(address)),
        }
        let is_back = || {
            let calls = at_server().into_iter().zip(&while_out).all(|(now, before)| now > *before);
            calls && clients.iter().all(|it| it.is_usable(address))
        };
        let back = traffic.run(is_back, 2 * BACK).await.then(|| back_at.elapsed());
        let (calls, failed) = traffic.end().await;
        let retries =
            attempts().into_iter().zip(before).enumerate().map(|(client, (now, before))| {
                let calls = (calls as usize).saturating_sub(client).div_ceil(clients.len());
                // A call that is rejected has no attempt.
                (now - before).saturating_sub(calls as u64)
            });
        let retries = retries.collect();
        Ok(Self { calls, failed, retries, back })
    }
}

/// Calls at a steady rate, through all clients in turn.
struct Traffic<'a> {
    clients: &'a [ShopClient],
    calls: u32,
    failed: Arc<AtomicU32>,
    tasks: JoinSet<()>,
}

impl<'a> Traffic<'a> {
    fn new(clients: &'a [ShopClient]) -> Self {
        Self { clients, calls: 0, failed: Arc::default(), tasks: JoinSet::new() }
    }

    /// Calls for some time, or until something is true. Returns `true` in this case.
    async fn run(&mut self, is_over: impl Fn() -> bool, time: Duration) -> bool {
        let (start, mut ticks) =
            (Instant::now(), interval(Duration::from_secs(1) / CALLS_PER_SECOND));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while start.elapsed() < time {
            if is_over() {
                return true;
            }
            ticks.tick().await;
            let client = &self.clients[self.calls as usize % self.clients.len()];
            let (name, call) = (client.name, client.call.clone().oneshot(()));
            let failed = Arc::clone(&self.failed);
            self.calls += 1;
            self.tasks.spawn(async move {
                if let Err(error) = call.await {
                    println!("  a call of {name} failed: {error}");
                    failed.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        false
    }

    /// Waits for all calls. Returns their number, and that of those that failed.
    async fn end(self) -> (u32, u32) {
        self.tasks.join_all().await;
        (self.calls, self.failed.load(Ordering::Relaxed))
    }
}

/// A client of all servers.
struct ShopClient {
    name: &'static str,
    call: BoxCloneSyncService<(), (), BoxError>,
    fleet: EndpointsHandle<SocketAddr>,
}

impl ShopClient {
    fn attempts(&self) -> u64 {
        self.fleet.states().iter().map(|it| it.calls).sum()
    }

    fn calls_at(&self, server: SocketAddr) -> u64 {
        self.fleet.states().iter().filter(|it| it.address == server).map(|it| it.calls).sum()
    }

    fn is_usable(&self, server: SocketAddr) -> bool {
        let states = self.fleet.states();
        states.iter().any(|it| it.address == server && it.status == EndpointStatus::Usable)
    }
}

fn hyper(addresses: &[SocketAddr]) -> Result<ShopClient, BoxError> {
    let make = |address: &SocketAddr| {
        let instance: Uri = format!("http://{address}").parse().expect("an address is a URI");
        let connector = HttpConnector::new().map_request(move |_: Uri| instance.clone());
        Client::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(connector)
    };
    let shops = shops(addresses, make, HttpCheck::get("http://shop/health")?)?;
    let fleet = shops.handle();
    let shop = Stack::standard_http().attempt_timeout(ATTEMPT).layer(shops);
    Ok(ShopClient { name: "hyper", call: get_page(shop), fleet })
}

fn reqwest(addresses: &[SocketAddr]) -> Result<ShopClient, BoxError> {
    let make = |address: &SocketAddr| {
        let builder = reqwest::Client::builder().resolve("shop", *address);
        ReqwestClient::<Full<Bytes>>::new(builder, Policy::none()).expect("a client without TLS")
    };
    let shops = shops(addresses, make, HttpCheck::get("http://shop/health")?)?;
    let fleet = shops.handle();
    let shop = Stack::standard_http().attempt_timeout(ATTEMPT).layer(shops);
    Ok(ShopClient { name: "reqwest", call: get_page(shop), fleet })
}

fn tonic(addresses: &[SocketAddr]) -> Result<ShopClient, BoxError> {
    let make = |address: &SocketAddr| {
        let endpoint = Endpoint::try_from(format!("http://{address}")).expect("an address");
        endpoint.connect_lazy()
    };
    // The health service of gRPC, as generated clients have it.
    let check = check_fn(|channel: Channel| async move {
        let response = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
        response.is_ok_and(|it| it.into_inner().status == ServingStatus::Serving as i32)
    });
    let shops = shops(addresses, make, check)?;
    let fleet = shops.handle();
    let safe = ReplaySafe::new().grpc_methods_fn(|path| path == "/grpc.health.v1.Health/Check");
    let stack = Stack::standard(safe).attempt_timeout(ATTEMPT).http();
    let shop = HealthClient::new(grpc::client(shops, stack));
    let call = service_fn(move |()| {
        let mut shop = shop.clone();
        async move {
            shop.check(HealthCheckRequest::default()).await?;
            Ok(())
        }
    });
    Ok(ShopClient { name: "tonic", call: BoxCloneSyncService::new(call), fleet })
}

/// Creates a client of all servers from the clients of single ones.
fn shops<S: Clone + Send + 'static>(
    addresses: &[SocketAddr],
    make: impl Fn(&SocketAddr) -> S + Send + Sync + 'static,
    check: impl Check<S>,
) -> Result<Endpoints<SocketAddr, S>, ConfigError> {
    Endpoints::builder(addresses.to_vec(), make)
        .check(check)
        .check_interval(CHECK_INTERVAL)
        .check_timeout(CHECK_TIMEOUT)
        .build()
}

/// Creates a service that gets a page and reads it.
fn get_page<S, B>(shop: S) -> BoxCloneSyncService<(), (), BoxError>
where
    S: Service<Request<Full<Bytes>>, Response = http::Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: HttpBody<Data: Send, Error: Into<BoxError>> + Send,
{
    BoxCloneSyncService::new(service_fn(move |()| {
        let shop = shop.clone();
        async move {
            let request = Request::get("http://shop/page").body(Full::default())?;
            let response = shop.oneshot(request).await.map_err(Into::into)?;
            if !response.status().is_success() {
                return Err(format!("the status is {}", response.status()).into());
            }
            response.into_body().collect().await.map_err(Into::into)?;
            Ok(())
        }
    }))
}

/// A server of HTTP and gRPC, in a runtime of its own, so that all of it can be killed.
struct Server {
    address: SocketAddr,
    runtime: Option<Runtime>,
    /// An `Out`, or 0.
    fault: Arc<AtomicU8>,
}

impl Server {
    fn start() -> io::Result<Self> {
        let any = ([127, 0, 0, 1], 0).into();
        let mut server = Self { address: any, runtime: None, fault: Arc::default() };
        server.revive()?;
        Ok(server)
    }

    fn revive(&mut self) -> io::Result<()> {
        let listener = TcpListener::bind(self.address)?;
        listener.set_nonblocking(true)?;
        self.address = listener.local_addr()?;
        let runtime =
            runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let health = HealthService::from_health_reporter(HealthReporter::new());
        let router = Routes::new(HealthServer::new(health))
            .into_axum_router()
            .route("/page", get(|| ready("books 1 to 20")))
            .route("/health", get(|| ready("ok")))
            .layer(from_fn_with_state(Arc::clone(&self.fault), with_faults));
        runtime.spawn(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            axum::serve(listener, router).await
        });
        self.runtime = Some(runtime);
        Ok(())
    }

    /// Closes the socket and all connections.
    fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    fn set(&self, out: Out) {
        self.fault.store(out as u8, Ordering::Relaxed);
    }

    fn set_well(&self) {
        self.fault.store(0, Ordering::Relaxed);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn with_faults(
    State(fault): State<Arc<AtomicU8>>,
    request: AxumRequest,
    next: Next,
) -> Response {
    let fault = fault.load(Ordering::Relaxed);
    if fault == Out::Hanging as u8 {
        return pending().await;
    }
    if fault != Out::Failing as u8 {
        return next.run(request).await;
    }
    let is_grpc = |it: &http::HeaderValue| it.as_bytes().starts_with(b"application/grpc");
    if request.headers().get(CONTENT_TYPE).is_some_and(is_grpc) {
        Status::unavailable("out of order").into_http()
    } else {
        StatusCode::SERVICE_UNAVAILABLE.into_response()
    }
}
