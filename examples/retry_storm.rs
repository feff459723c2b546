//! Counts the calls that reach a dead service when three callers in a row all retry.
//!
//! ```sh
//! cargo run --example retry_storm
//! cargo run --example retry_storm -- --calls 200 --floor 0
//! ```
//!
//! ```text
//! user -> edge client -> hop A -> hop B -> leaf
//!             retries      retries  retries
//! ```
//!
//! Retries multiply, because each caller decides alone. Hop B calls the leaf, fails and retries
//! three times, which makes four calls. Hop A counts that as one failed attempt and retries three
//! times, which makes 16 calls. The edge does the same to hop A. The leaf gets 64 calls for one
//! call of a user, at the moment when it is overloaded.
//!
//! A leaf that hangs is worse in one way. A caller that stops waiting does not stop the work that
//! it caused. The hops beneath keep retrying for a caller that has left.
//!
//! All calls go over sockets on loopback. The last line of the output is for programs.

use std::{
    convert::Infallible,
    env,
    fmt::{self, Write},
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use buttress::{
    BoxError, Error, Stack,
    http::{HttpClientLayer, HttpServerLayer, ReplaySafe, ResponseBody},
    retry::{Backoff, Budget, RetryLayer},
};
use futures::{StreamExt, stream};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{
    body::{Body, Bytes, Incoming},
    server::conn::http2,
    service::service_fn as connection_fn,
};
use hyper_util::{
    client::legacy::{self, Client},
    rt::{TokioExecutor, TokioIo},
};
use tokio::{net::TcpListener, sync::watch, task::JoinSet, time::sleep};
use tower::{Layer, Service, ServiceExt, service_fn};

/// A fifth of the default timeouts of a stack, so that the example ends soon.
const ATTEMPT: Duration = Duration::from_millis(400);
const TOTAL: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(1);

/// The maximum number of calls of a dead leaf for each call of a user, with the protocol.
const BOUND: f64 = 1.2;

#[derive(Clone, Copy)]
struct SetUp {
    name: &'static str,
    /// Each caller may retry one call in ten, plus `floor` calls.
    budget: bool,
    /// Requests say how long their caller waits, and responses say when not to retry.
    protocol: bool,
}

const WITHOUT: SetUp = SetUp { name: "without", budget: false, protocol: false };
const BUDGET_ONLY: SetUp = SetUp { name: "budget_only", budget: true, protocol: false };
const WITH: SetUp = SetUp { name: "with", budget: true, protocol: true };

/// The way in which the leaf is ill.
#[derive(Clone, Copy)]
enum Leaf {
    /// It responds with 503 at once.
    Fails,
    /// It responds to three calls in ten with 503 at once.
    Falters,
    /// It responds after all callers have left.
    Hangs,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let options = Options::from_args()?;
    println!(
        "{} calls of users; three callers in a row retry up to 3 times each; floor {}\n",
        options.calls, options.floor
    );
    println!("                      leaf fails            leaf hangs      leaf fails 30 %");
    println!("set-up          at the leaf  a call     at the leaf  a call       users ok");
    let mut summary = String::new();
    let mut storms = Vec::new();
    for set_up in [WITHOUT, BUDGET_ONLY, WITH] {
        let fails = run(set_up, Leaf::Fails, options).await?;
        let hangs = run(set_up, Leaf::Hangs, options).await?;
        let falters = run(set_up, Leaf::Falters, options).await?;
        println!(
            "{:<12} {:>14} {:>7.2} {:>15} {:>7.2} {:>12.1} %",
            set_up.name,
            fails.leaf_calls,
            fails.amplification(),
            hangs.leaf_calls,
            hangs.amplification(),
            falters.ok_percent(),
        );
        let comma = if summary.is_empty() { "" } else { "," };
        write!(
            summary,
            r#"{comma}"{}":{{{fails},"hang":{{{hangs}}},"falter":{{{falters}}}}}"#,
            set_up.name
        )?;
        if set_up.protocol {
            let bounded = |seen: &Seen| seen.amplification() <= BOUND;
            storms.extend([fails, hangs].into_iter().filter(|seen| !bounded(seen)));
        }
    }
    println!(
        "
without      Each caller retries every failure, whatever that costs the services beneath it.
budget_only  Each caller retries a tenth of its calls. Together that is more than a tenth.
with         The caller next to the leaf spends its budget and reports that retrying was in vain.
             The callers above do not retry that, and no hop works on after its caller has left.

The price: one budget is spent instead of three. While a leaf is not dead but fails at times, three
budgets heal more calls than one, as the last column shows.
"
    );
    println!("summary {{{summary}}}");
    match storms.first() {
        None => Ok(()),
        Some(seen) => Err(format!("{:.2} calls for each of a user", seen.amplification()).into()),
    }
}

#[derive(Clone, Copy)]
struct Options {
    calls: u64,
    /// The number of retries in each budget before its first call.
    floor: u32,
}

impl Options {
    fn from_args() -> Result<Self, BoxError> {
        let mut options = Self { calls: 2_000, floor: 10 };
        let mut args = env::args().skip(1);
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| format!("{name} needs a number"))?;
            match &*name {
                "--calls" => options.calls = value.parse()?,
                "--floor" => options.floor = value.parse()?,
                _ => return Err(format!("{name} is neither --calls nor --floor").into()),
            }
        }
        Ok(options)
    }
}

/// The results of the users' calls.
struct Seen {
    calls: u64,
    leaf_calls: u64,
    ok: u64,
}

impl Seen {
    fn amplification(&self) -> f64 {
        self.leaf_calls as f64 / self.calls.max(1) as f64
    }

    fn ok_percent(&self) -> f64 {
        100.0 * self.ok as f64 / self.calls.max(1) as f64
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, leaf_calls, ok } = self;
        let amplification = self.amplification();
        write!(f, r#""calls":{calls},"leaf_calls":{leaf_calls},"#)?;
        write!(f, r#""amplification":{amplification:.3},"ok":{ok}"#)
    }
}

/// Builds the services and the leaf anew, with full budgets, and makes the users' calls.
async fn run(set_up: SetUp, leaf: Leaf, options: Options) -> Result<Seen, BoxError> {
    // The number of concurrent users. Calls to a failing leaf need CPU time. Calls to a hanging
    // leaf only wait.
    let users: u32 = match leaf {
        Leaf::Fails | Leaf::Falters => 32,
        Leaf::Hangs => 200,
    };
    let mut servers = Servers::new(set_up);
    let leaf_calls = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&leaf_calls);
    let leaf = servers.start(move || ill(leaf, seen.fetch_add(1, Ordering::Relaxed)));
    let leaf = leaf.await?;
    let hop_b = set_up.client(options.floor)?;
    let hop_b = servers.start(move || forward(hop_b.clone(), leaf)).await?;
    let hop_a = set_up.client(options.floor)?;
    let hop_a = servers.start(move || forward(hop_a.clone(), hop_b)).await?;
    let edge = set_up.client(options.floor)?;

    let responses = stream::iter(0..options.calls)
        .map(|call| {
            let edge = edge.clone();
            async move {
                // The first calls are spread out, because users do not all call at once.
                if call < users.into() {
                    sleep(TOTAL * call as u32 / users).await;
                }
                forward(edge, hop_a).await
            }
        })
        .buffer_unordered(users as usize)
        .filter(|response| std::future::ready(response.status().is_success()))
        .count();
    let ok = responses.await as u64;

    // All users have left, but the hops may still be working for some of them.
    servers.idle().await;
    Ok(Seen { calls: options.calls, leaf_calls: leaf_calls.load(Ordering::Relaxed), ok })
}

impl SetUp {
    /// Creates a client that retries. Each caller has its own client, and its own budget.
    fn client(self, floor: u32) -> Result<impl Caller, BoxError> {
        let backoff = Backoff::exponential(FIRST_PAUSE).build()?;
        let mut retry = RetryLayer::builder(ReplaySafe::new()).backoff(backoff);
        retry = match self.budget {
            true => retry.budget(Budget::builder().ratio(0.1).floor(floor).build()?),
            false => retry.without_budget(),
        };
        // Without the headers no server knows how long its caller waits. The headers of responses
        // need no switch, because only an `HttpServerLayer` writes them.
        let mut protocol = HttpClientLayer::builder();
        if !self.protocol {
            protocol = protocol.without_hop_headers();
        }
        let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
        // A breaker would stop each of these storms after a while, but it would also stop all other
        // calls to the leaf. It is left out here.
        Ok(Stack::new()
            .total_timeout(TOTAL)
            .retry(retry.build()?)
            .attempt_timeout(ATTEMPT)
            .http_client(protocol.build()?)
            .service(client))
    }
}

/// A client in its stack.
trait Caller:
    Service<
        Request<Empty<Bytes>>,
        Response = Response<ResponseBody<Incoming>>,
        Error = Error<legacy::Error>,
        Future: Send,
    > + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Caller for S where
    S: Service<
            Request<Empty<Bytes>>,
            Response = Response<ResponseBody<Incoming>>,
            Error = Error<legacy::Error>,
            Future: Send,
        > + Clone
        + Send
        + Sync
        + 'static
{
}

type FullResponse = Response<Full<Bytes>>;

fn respond(status: StatusCode) -> FullResponse {
    let mut response = FullResponse::default();
    *response.status_mut() = status;
    response
}

/// Calls the service beneath, and responds with its status.
async fn forward(caller: impl Caller, beneath: SocketAddr) -> FullResponse {
    let uri = format!("http://{beneath}/");
    let request = Request::get(uri).body(Empty::new()).expect("an address is a valid URI");
    respond(match caller.oneshot(request).await {
        Ok(response) => {
            let status = response.status();
            match response.into_body().collect().await {
                Ok(_) => status,
                Err(_) => StatusCode::BAD_GATEWAY,
            }
        }
        Err(Error::Rejected(_)) => StatusCode::GATEWAY_TIMEOUT,
        Err(Error::Service(_)) => StatusCode::BAD_GATEWAY,
    })
}

/// Handles a call of the leaf, the one with this number.
async fn ill(leaf: Leaf, number: u64) -> FullResponse {
    match leaf {
        Leaf::Fails => respond(StatusCode::SERVICE_UNAVAILABLE),
        // Multiplication by this odd number (Knuth's) scatters the failures over the calls.
        Leaf::Falters if (number.wrapping_mul(2_654_435_761) >> 8) % 10 < 3 => {
            respond(StatusCode::SERVICE_UNAVAILABLE)
        }
        Leaf::Falters => respond(StatusCode::OK),
        Leaf::Hangs => {
            // Longer than any caller waits.
            sleep(2 * TOTAL).await;
            respond(StatusCode::OK)
        }
    }
}

/// The servers of one run. They end when this is dropped.
struct Servers {
    set_up: SetUp,
    listeners: JoinSet<()>,
    /// The number of requests in flight.
    serving: Arc<watch::Sender<u64>>,
}

impl Servers {
    fn new(set_up: SetUp) -> Self {
        let serving = Arc::new(watch::Sender::new(0));
        Self { set_up, listeners: JoinSet::new(), serving }
    }

    async fn start<H, F>(&mut self, handle: H) -> io::Result<SocketAddr>
    where
        H: Fn() -> F + Clone + Send + 'static,
        F: Future<Output = FullResponse> + Send + 'static,
    {
        let handler = service_fn(move |_: Request<Incoming>| {
            let response = handle();
            async move { Ok::<_, Infallible>(response.await) }
        });
        if self.set_up.protocol {
            // The layer stops the work in time to respond, and passes on the advice not to retry.
            // An empty stack is enough for both.
            self.listen(HttpServerLayer::new(Stack::new()).layer(handler)).await
        } else {
            self.listen(handler).await
        }
    }

    async fn listen<S, B>(&mut self, service: S) -> io::Result<SocketAddr>
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>,
        S: Clone + Send + 'static,
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let serving = Arc::clone(&self.serving);
        self.listeners.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (service, serving) = (service.clone(), Arc::clone(&serving));
                let serve = connection_fn(move |request| {
                    serve_to_the_end(service.clone(), request, Arc::clone(&serving))
                });
                let connection = http2::Builder::new(TokioExecutor::new())
                    .max_concurrent_streams(None)
                    .serve_connection(TokioIo::new(stream), serve);
                tokio::spawn(connection);
            }
        });
        Ok(address)
    }

    async fn idle(&self) {
        let mut serving = self.serving.subscribe();
        serving.wait_for(|serving| *serving == 0).await.expect("the sender is in `self`");
    }
}

/// Serves a request in a task of its own, which continues after the caller has left.
///
/// By itself, hyper would notice that the caller has left, and drop the handler. Many servers do
/// not notice it, and neither does a server behind a proxy or a queue. Even hyper does not know in
/// advance when a caller will leave.
async fn serve_to_the_end<S>(
    service: S,
    request: Request<Incoming>,
    serving: Arc<watch::Sender<u64>>,
) -> Result<S::Response, Infallible>
where
    S: Service<Request<Incoming>, Error = Infallible, Future: Send> + Send + 'static,
    S::Response: Send,
{
    serving.send_modify(|serving| *serving += 1);
    let served = tokio::spawn(async move {
        let response = service.oneshot(request).await;
        serving.send_modify(|serving| *serving -= 1);
        response
    });
    served.await.expect("no handler panics")
}
