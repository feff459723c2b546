//! Three services in a row that all retry, and a leaf at the end that is dead: how many calls the leaf
//! sees for each call of a user.
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
//! Retrying is decided by each caller alone, and that is how a storm arises. Hop B calls the leaf, fails,
//! and tries three times more: four calls, and a failure for hop A. To hop A that is one failed attempt,
//! so it has hop B do all of it again, three times: sixteen calls. The edge does the same to hop A: 64
//! calls at the leaf for one call of a user, at the very time at which the leaf can do the least.
//!
//! A leaf that hangs is worse in one way. A caller that stops waiting does not stop the work that it
//! caused: the hops beneath retry for somebody who has left.
//!
//! All of it goes over sockets on loopback. The last line is for programs.

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

/// A fifth of the defaults of a stack, so that the example ends soon.
const ATTEMPT: Duration = Duration::from_millis(400);
const TOTAL: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(1);

/// How much of the load of the users a dead leaf may see with the hop protocol.
const BOUND: f64 = 1.2;

#[derive(Clone, Copy)]
struct SetUp {
    name: &'static str,
    /// Each caller may retry one call in ten, and `floor` calls more.
    budget: bool,
    /// Callers tell how long they wait, and answers tell where it is vain to retry.
    protocol: bool,
}

const WITHOUT: SetUp = SetUp { name: "without", budget: false, protocol: false };
const BUDGET_ONLY: SetUp = SetUp { name: "budget_only", budget: true, protocol: false };
const WITH: SetUp = SetUp { name: "with", budget: true, protocol: true };

/// How the leaf is dead.
#[derive(Clone, Copy)]
enum Leaf {
    Refuses,
    Hangs,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let options = Options::from_args()?;
    println!(
        "{} calls of users; three callers in a row retry up to 3 times each; floor {}\n",
        options.calls, options.floor
    );
    println!("                    leaf refuses            leaf hangs");
    println!("set-up          at the leaf  a call     at the leaf  a call");
    let mut summary = String::new();
    let mut storms = Vec::new();
    for set_up in [WITHOUT, BUDGET_ONLY, WITH] {
        let refuses = run(set_up, Leaf::Refuses, options).await?;
        let hangs = run(set_up, Leaf::Hangs, options).await?;
        println!(
            "{:<12} {:>14} {:>7.2} {:>15} {:>7.2}",
            set_up.name,
            refuses.leaf_calls,
            refuses.amplification(),
            hangs.leaf_calls,
            hangs.amplification(),
        );
        let comma = if summary.is_empty() { "" } else { "," };
        write!(summary, r#"{comma}"{}":{{{refuses},"hang":{{{hangs}}}}}"#, set_up.name)?;
        if set_up.protocol {
            let bounded = |seen: &Seen| seen.amplification() <= BOUND;
            storms.extend([refuses, hangs].into_iter().filter(|seen| !bounded(seen)));
        }
    }
    println!(
        "
without      each caller retries what failed, whatever that cost beneath it.
budget_only  each caller retries a tenth of its calls: together more than a tenth.
with         the caller next to the leaf spends its tenth and says that it was in vain; those above
             do not retry that, and nobody works on after its caller has left.

The price: one hop's budget is spent, and not each hop's. While a leaf is not dead but fails now and
then, three budgets in a row heal more calls than one: of a leaf that fails 30 % of its calls, about
94 % of the calls of users are answered with budgets alone, and 78 % with the protocol.
"
    );
    println!("summary {{{summary}}}");
    match storms.first() {
        None => Ok(()),
        Some(seen) => Err(format!("{:.2} calls for one of a user", seen.amplification()).into()),
    }
}

#[derive(Clone, Copy)]
struct Options {
    calls: u64,
    /// The retries that each budget begins with.
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

/// What became of the calls of the users.
struct Seen {
    calls: u64,
    leaf_calls: u64,
    ok: u64,
}

impl Seen {
    fn amplification(&self) -> f64 {
        self.leaf_calls as f64 / self.calls.max(1) as f64
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

/// Builds the three services and the leaf anew, with full budgets, and sends the calls of the users.
async fn run(set_up: SetUp, leaf: Leaf, options: Options) -> Result<Seen, BoxError> {
    // As many call at any time: what a refusal takes is computing, and what silence takes is waiting.
    let users: u32 = match leaf {
        Leaf::Refuses => 32,
        Leaf::Hangs => 200,
    };
    let mut servers = Servers::new(set_up);
    let leaf_calls = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&leaf_calls);
    let leaf = servers.start(move || {
        seen.fetch_add(1, Ordering::Relaxed);
        dead(leaf)
    });
    let leaf = leaf.await?;
    let hop_b = set_up.client(options.floor)?;
    let hop_b = servers.start(move || forward(hop_b.clone(), leaf)).await?;
    let hop_a = set_up.client(options.floor)?;
    let hop_a = servers.start(move || forward(hop_a.clone(), hop_b)).await?;
    let edge = set_up.client(options.floor)?;

    let answers = stream::iter(0..options.calls)
        .map(|call| {
            let edge = edge.clone();
            async move {
                // All at one instant, over and over again, is not how users come.
                if call < users.into() {
                    sleep(TOTAL * call as u32 / users).await;
                }
                forward(edge, hop_a).await
            }
        })
        .buffer_unordered(users as usize)
        .filter(|answer| std::future::ready(answer.status().is_success()))
        .count();
    let ok = answers.await as u64;

    // The users have their answers, but the hops may still be at work for some who have left.
    servers.idle().await;
    Ok(Seen { calls: options.calls, leaf_calls: leaf_calls.load(Ordering::Relaxed), ok })
}

impl SetUp {
    /// A client that retries. Each caller has its own: services do not share a budget.
    fn client(self, floor: u32) -> Result<impl Caller, BoxError> {
        let backoff = Backoff::exponential(FIRST_PAUSE).build()?;
        let mut retry = RetryLayer::builder(ReplaySafe::new()).backoff(backoff);
        retry = match self.budget {
            true => retry.budget(Budget::builder().ratio(0.1).floor(floor).build()?),
            false => retry.without_budget(),
        };
        // Without the headers no server knows how long its caller waits. What a client reads of answers
        // need not be switched off: a server without an `HttpServerLayer` says nothing there.
        let mut protocol = HttpClientLayer::builder();
        if !self.protocol {
            protocol = protocol.without_hop_headers();
        }
        // What hyper's client sends again by itself would pass by the budget.
        let client = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .retry_canceled_requests(false)
            .build_http();
        // A breaker would end each of these storms after a while. It is left out, since it ends all
        // other calls to the leaf too.
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

type Answer = Response<Full<Bytes>>;

fn answer(status: StatusCode) -> Answer {
    let mut answer = Answer::default();
    *answer.status_mut() = status;
    answer
}

/// Calls the service beneath, and answers as that did.
async fn forward(caller: impl Caller, beneath: SocketAddr) -> Answer {
    let uri = format!("http://{beneath}/");
    let request = Request::get(uri).body(Empty::new()).expect("an address is a valid URI");
    answer(match caller.oneshot(request).await {
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

/// What the leaf does with each call.
async fn dead(leaf: Leaf) -> Answer {
    match leaf {
        Leaf::Refuses => answer(StatusCode::SERVICE_UNAVAILABLE),
        Leaf::Hangs => {
            // Longer than anybody waits.
            sleep(2 * TOTAL).await;
            answer(StatusCode::OK)
        }
    }
}

/// The servers of one run, which end with it.
struct Servers {
    set_up: SetUp,
    listeners: JoinSet<()>,
    /// How many requests are being served.
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
        F: Future<Output = Answer> + Send + 'static,
    {
        let handler = service_fn(move |_: Request<Incoming>| {
            let answer = handle();
            async move { Ok::<_, Infallible>(answer.await) }
        });
        if self.set_up.protocol {
            // Ends the work in time to say so to the caller, and passes on that retrying was in vain.
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

/// Serves a request in a task of its own, which goes on when the caller has left. Over HTTP hyper would
/// notice that, and drop the handler. Many a server does not, and nor does one behind a proxy or a queue;
/// and it notices only that the caller has left, never that it is about to.
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
        let answer = service.oneshot(request).await;
        serving.send_modify(|serving| *serving -= 1);
        answer
    });
    served.await.expect("no handler panics")
}
