//! The same traffic at the same ailing server, from a bare client and then behind a standard stack.
//!
//! Run it with `cargo run --example quickstart`. It needs nothing else to run, and takes 25 s.

use std::{
    convert::Infallible,
    fmt::{self, Display},
    io, mem,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use buttress::{
    BoxError, ConfigError, Error, Rejection, Stack,
    circuit_breaker::{CircuitBreakerHandle, CircuitBreakerLayer},
    http::{ResponseBody, wire},
};
use http_body_util::Empty;
use hyper::{
    Response, StatusCode,
    body::{Bytes, Incoming},
    server::conn::http1,
};
use hyper_util::{
    client::legacy::{self, Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, interval, sleep, timeout_at},
};
use tower::{Service, ServiceExt};

type Request = hyper::Request<Empty<Bytes>>;
type HttpClient = Client<HttpConnector, Empty<Bytes>>;
type CallError = Error<legacy::Error>;

/// Puts a standard stack around an HTTP client. This is the part to copy, with [`breaker`].
///
/// The times are shortened so that the whole story takes seconds. A real service may well leave out
/// all five lines that set one.
fn protect(
    client: HttpClient,
    breaker: CircuitBreakerLayer,
) -> impl Clone
+ Service<Request, Response = Response<ResponseBody<Incoming>>, Error = CallError, Future: Send> {
    // It replays a GET, and never a POST: only you can know that repeating one does no harm. It
    // classifies responses by their status, tells the server how much time is left and which attempt
    // this is, and ends a call with the body of its response.
    Stack::standard_http()
        .total_timeout(Duration::from_millis(500))
        .attempt_timeout(Duration::from_millis(150))
        .circuit_breaker(breaker)
        .service(client)
}

/// The breaker of the stack, made apart from it: its handle tells how it stands, and can switch it.
fn breaker() -> Result<CircuitBreakerLayer, ConfigError> {
    CircuitBreakerLayer::builder()
        .name("orders")
        .time_window(Duration::from_secs(1))
        .open_for(Duration::from_secs(1))
        .max_open_for(Duration::from_secs(1))
        .build()
}

/// Calls offered every second, whether or not the ones before are answered.
const RATE: u32 = 40;

/// How long the script of the server takes, and the traffic.
const SECONDS: u64 = 12;

/// Within this time a caller still cares for the answer.
const PROMPT: Duration = Duration::from_millis(500);

/// How long the calls that are still under way then are waited for.
const PATIENCE: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let client: HttpClient = Client::builder(TokioExecutor::new())
        // By default this client sends a request again by itself when a pooled connection turns out
        // to be dead. Only the stack should repeat anything: it knows what may be, and counts it.
        .retry_canceled_requests(false)
        .build_http();

    println!("A bare client, which waits for as long as the server lets it:");
    let bare = run(client.clone().map_err(Error::Service), None).await?;

    println!("\nThe same client in `Stack::standard`:");
    let breaker = breaker()?;
    let handle = breaker.handle();
    let protected = run(protect(client, breaker), Some(&handle)).await?;
    let (opened, closed) = (handle.snapshot().opened(), handle.snapshot().closed());

    println!("\n{:<24} {:>9} {:>9}", "", "bare", "protected");
    let row = |what: &str, bare: &dyn Display, protected: &dyn Display| {
        println!("{what:<24} {bare:>9} {protected:>9}");
    };
    row("calls", &bare.calls, &protected.calls);
    row("  ok", &bare.ok, &protected.ok);
    row("    of which promptly", &bare.prompt, &protected.prompt);
    row("  failed", &bare.failed, &protected.failed);
    row("  rejected", &bare.rejected, &protected.rejected);
    row("  timed out", &bare.timed_out, &protected.timed_out);
    row("the server received", &bare.server_requests, &protected.server_requests);
    row("  of which retries", &bare.retries, &protected.retries);
    row("  while slow or failing", &bare.while_sick, &protected.while_sick);
    row("callers waited, p50 ms", &bare.waited(50), &protected.waited(50));
    row("callers waited, p99 ms", &bare.waited(99), &protected.waited(99));
    row("breaker opened", &"-", &opened);
    row("breaker closed", &"-", &closed);

    let story_holds = bare.adds_up()
        && protected.adds_up()
        && bare.calls == protected.calls
        && protected.server_requests < bare.server_requests
        && protected.waited(99) < bare.waited(99)
        && opened > 0
        && closed > 0;
    println!();
    println!(
        "The bare client has more that are ok: answers that came when nobody waited for them any \
         more."
    );
    println!();
    println!(
        r#"summary {{"bare":{{{}}},"protected":{{{},"breaker_opened":{},"breaker_closed":{}}}}}"#,
        bare.json(),
        protected.json(),
        opened,
        closed,
    );
    if story_holds { Ok(()) } else { Err("the stack did not do what this example says".into()) }
}

/// Starts a server, offers it the traffic, and prints a line a second.
async fn run<S, B>(service: S, breaker: Option<&CircuitBreakerHandle>) -> Result<Tally, BoxError>
where
    S: Service<Request, Response = Response<B>, Error = CallError, Future: Send>,
    S: Clone + Send + 'static,
    B: Send + 'static,
{
    let meter = Meter::default();
    let address = serve(meter.clone()).await?;
    let give_up = Instant::now() + Duration::from_secs(SECONDS) + PATIENCE;

    println!("{HEADING}  breaker");
    let mut total = Tally::default();
    let mut calls = JoinSet::new();
    let mut next = interval(Duration::from_secs(1) / RATE);
    for second in 0..SECONDS {
        for _ in 0..RATE {
            // Callers come when they come, also while those before them are still waiting.
            next.tick().await;
            let request = hyper::Request::get(format!("http://{address}/orders"));
            let call = service.clone().oneshot(request.body(Empty::new())?);
            meter.note(|tally| tally.calls += 1);
            calls.spawn(measure(call, meter.clone(), give_up));
        }
        let tally = meter.take();
        let state =
            breaker.map_or_else(|| "-".to_owned(), |breaker| format!("{:?}", breaker.state()));
        println!("{:>2} {:<8}{tally}  {state}", second + 1, ServerIs::at(second).name());
        total.add(tally);
    }
    while calls.join_next().await.is_some() {}
    total.add(meter.take());
    Ok(total)
}

/// Makes one call and notes what became of it.
async fn measure<B>(
    call: impl Future<Output = Result<Response<B>, CallError>>,
    meter: Meter,
    give_up: Instant,
) {
    let started = Instant::now();
    // Not a timeout of the calls: only the end of this run.
    let answer = timeout_at(give_up, call).await;
    meter.note(|tally| {
        let waited = started.elapsed();
        tally.waits.push(waited);
        match answer {
            Ok(Ok(response)) if response.status().is_success() => {
                tally.ok += 1;
                tally.prompt += u64::from(waited < PROMPT);
            }
            Ok(Err(Error::Rejected(rejection))) => match rejection {
                Rejection::TimedOut(_) | Rejection::DeadlineExceeded(_) => tally.timed_out += 1,
                _ => tally.rejected += 1,
            },
            // A 5xx, a broken connection, or no answer before the run was over.
            _ => tally.failed += 1,
        }
    });
}

/// What the server is like: three seconds of each, and then well again.
#[derive(Clone, Copy, PartialEq)]
enum ServerIs {
    Healthy,
    Slow,
    Failing,
}

impl ServerIs {
    fn at(second: u64) -> Self {
        match second {
            3..6 => Self::Slow,
            6..9 => Self::Failing,
            _ => Self::Healthy,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Slow => "slow",
            Self::Failing => "failing",
        }
    }
}

/// How many requests the server works on at once, as a pool of threads or connections allows.
/// The others wait in line.
const WORKERS: usize = 24;

/// Starts a server, and with it the script that it goes through.
async fn serve(meter: Meter) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let workers = Arc::new(Semaphore::new(WORKERS));
    let started = Instant::now();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (meter, workers) = (meter.clone(), Arc::clone(&workers));
            let service = hyper::service::service_fn(move |request| {
                answer(request, meter.clone(), Arc::clone(&workers), started)
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    Ok(address)
}

async fn answer(
    request: hyper::Request<Incoming>,
    meter: Meter,
    workers: Arc<Semaphore>,
    started: Instant,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let state = || ServerIs::at(started.elapsed().as_secs());
    // The first attempt says nothing of it.
    let retry = request.headers().contains_key(wire::ATTEMPT_COUNT);
    meter.note(|tally| {
        tally.server_requests += 1;
        tally.retries += u64::from(retry);
        tally.while_sick += u64::from(state() != ServerIs::Healthy);
    });
    let _worker = workers.acquire().await;
    let (status, work) = match state() {
        ServerIs::Healthy => (StatusCode::OK, Duration::from_millis(20)),
        ServerIs::Slow => (StatusCode::OK, Duration::from_millis(1500)),
        ServerIs::Failing => (StatusCode::SERVICE_UNAVAILABLE, Duration::ZERO),
    };
    sleep(work).await;
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    Ok(response)
}

/// What happened, in a second or in a run.
#[derive(Default)]
struct Tally {
    calls: u64,
    ok: u64,
    /// How many of these were [`PROMPT`].
    prompt: u64,
    failed: u64,
    rejected: u64,
    timed_out: u64,
    retries: u64,
    server_requests: u64,
    while_sick: u64,
    /// How long each caller waited, whatever the answer was.
    waits: Vec<Duration>,
}

const HEADING: &str =
    " s server   sent   ok failed rejected timed-out retried received p50-ms p99-ms";

impl Tally {
    fn add(&mut self, other: Self) {
        self.calls += other.calls;
        self.ok += other.ok;
        self.prompt += other.prompt;
        self.failed += other.failed;
        self.rejected += other.rejected;
        self.timed_out += other.timed_out;
        self.retries += other.retries;
        self.server_requests += other.server_requests;
        self.while_sick += other.while_sick;
        self.waits.extend(other.waits);
    }

    fn adds_up(&self) -> bool {
        self.calls == self.ok + self.failed + self.rejected + self.timed_out
    }

    /// How many milliseconds the luckiest so many percent of the callers waited at most.
    fn waited(&self, percent: usize) -> u128 {
        let mut waits = self.waits.clone();
        waits.sort_unstable();
        let rank = (waits.len() * percent).div_ceil(100);
        waits.get(rank.saturating_sub(1)).map_or(0, Duration::as_millis)
    }

    /// The members of a JSON object.
    fn json(&self) -> String {
        format!(
            r#""calls":{},"ok":{},"failed":{},"rejected":{},"timed_out":{},"retries":{},"#,
            self.calls, self.ok, self.failed, self.rejected, self.timed_out, self.retries,
        ) + &format!(
            r#""server_requests":{},"p50_ms":{},"p99_ms":{}"#,
            self.server_requests,
            self.waited(50),
            self.waited(99),
        )
    }
}

impl Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>5} {:>4} {:>6} {:>8} {:>9} {:>7} {:>8} {:>6} {:>6}",
            self.calls,
            self.ok,
            self.failed,
            self.rejected,
            self.timed_out,
            self.retries,
            self.server_requests,
            self.waited(50),
            self.waited(99),
        )
    }
}

/// The tally that the callers and the server write to.
#[derive(Clone, Default)]
struct Meter(Arc<Mutex<Tally>>);

impl Meter {
    fn note(&self, change: impl FnOnce(&mut Tally)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What happened since the last time this was asked.
    fn take(&self) -> Tally {
        mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
