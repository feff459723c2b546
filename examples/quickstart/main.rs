//! Sends the same traffic to a failing server twice: from a bare client, and through a stack.
//!
//! The stack has a cache of last good responses, so that most calls get an older response while the
//! server fails.
//!
//! ```sh
//! cargo run --example quickstart
//! cargo run --example quickstart -- --svg docs/quickstart.svg
//! ```
//!
//! The example takes 25 s and runs its own server. With `--svg` it also draws both runs.

mod chart;

use std::{
    convert::Infallible,
    env,
    fmt::{self, Display},
    fs,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    io, mem,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use buttress::{
    BoxError, ConfigError, Error, Rejection, Stack,
    cache::CacheLayer,
    circuit_breaker::{CircuitBreakerHandle, CircuitBreakerLayer},
    http::{Degraded, ResponseBody, wire},
};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{
    Response, StatusCode,
    body::{Body, Bytes, Incoming},
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
type Reply = Response<ResponseBody<Incoming>>;
type CallError = Error<legacy::Error>;

/// Puts a standard stack around an HTTP client. This is the part to copy, with [`breaker`].
///
/// The times are short because the whole run takes only seconds. In a real service, leave out all
/// lines that set a time, except that of the cache.
fn protect(
    client: HttpClient,
    breaker: CircuitBreakerLayer,
) -> Result<
    impl Clone + Service<Request, Response = Reply, Error = CallError, Future: Send>,
    ConfigError,
> {
    // A call that fails gets the last good response to the same URI, if there is one. With `ttl`
    // instead of `last_good`, fresh responses would be given without a call.
    let orders = CacheLayer::http().last_good(Duration::from_secs(3_600)).build()?;
    // The stack replays a GET and never a POST. It classifies responses by their status, tells the
    // server the time left and the number of the attempt, and ends a call with its response's body.
    Ok(Stack::standard_http()
        .cache(orders)
        .total_timeout(Duration::from_millis(500))
        .attempt_timeout(Duration::from_millis(150))
        .circuit_breaker(breaker)
        .service(client))
}

/// Builds the breaker outside the stack, to get its handle, which shows and changes its state.
fn breaker() -> Result<CircuitBreakerLayer, ConfigError> {
    CircuitBreakerLayer::builder()
        .name("orders")
        .time_window(Duration::from_secs(1))
        .open_for(Duration::from_millis(200))
        .max_open_for(Duration::from_millis(200))
        .build()
}

/// The number of calls per second. Calls are made even if earlier calls have not ended.
const RATE: u32 = 40;

/// The length of the traffic in seconds.
const SECONDS: u64 = 12;

/// The number of customers. Each call asks for the orders of one of them.
const CUSTOMERS: u64 = 100;

/// The time within which a response counts as prompt. It is the total timeout of the stack.
const PROMPT: Duration = Duration::from_millis(500);

/// The time after the traffic that is left for the last calls to end.
const LAST_CALLS: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let svg = svg_path()?;
    let client: HttpClient = Client::builder(TokioExecutor::new()).build_http();

    println!("A bare client, without any timeout:");
    let bare = run(client.clone().map_err(Error::Service), None).await?;

    println!("\nThe same client in `Stack::standard_http()` with a cache:");
    let breaker = breaker()?;
    let handle = breaker.handle();
    let protected = run(protect(client, breaker)?, Some(&handle)).await?;
    let (opened, closed) = (handle.snapshot().opened(), handle.snapshot().closed());

    if let Some(path) = svg {
        fs::write(&path, chart::draw(&bare.by_arrival, &protected.by_arrival))?;
        println!("\nwrote {path}");
    }
    let (bare, protected) = (bare.total, protected.total);
    println!("\n{:<24} {:>9} {:>9}", "", "bare", "protected");
    let row = |what: &str, bare: &dyn Display, protected: &dyn Display| {
        println!("{what:<24} {bare:>9} {protected:>9}");
    };
    row("calls", &bare.calls, &protected.calls);
    row("  ok within 500 ms", &bare.prompt, &protected.prompt);
    row("  ok later", &bare.late, &protected.late);
    row("  degraded", &bare.degraded, &protected.degraded);
    row("  failed", &bare.failed, &protected.failed);
    row("  timed out", &bare.timed_out, &protected.timed_out);
    row("  rejected", &bare.rejected, &protected.rejected);
    row("served", &bare.served(), &protected.served());
    row("callers waited, p50 ms", &bare.waited(50), &protected.waited(50));
    row("callers waited, p99 ms", &bare.waited(99), &protected.waited(99));
    row("the server received", &bare.server_requests, &protected.server_requests);
    row("  of which retries", &bare.retries, &protected.retries);
    row("  while slow or failing", &bare.in_trouble, &protected.in_trouble);
    row("breaker opened", &"-", &opened);
    row("breaker closed", &"-", &closed);

    let as_described = bare.adds_up()
        && protected.adds_up()
        && bare.calls == protected.calls
        && protected.served() > bare.served()
        && protected.server_requests < bare.server_requests
        && protected.waited(99) < bare.waited(99)
        && opened > 0
        && closed > 0;
    println!("\n`ok later` took more than 500 ms, which is the total timeout of the stack.");
    println!(
        "`degraded` are the customer's last orders that are known, if a newer response failed."
    );
    println!("`served` are those that are ok and those that are degraded.");
    println!();
    println!(
        r#"summary {{"bare":{{{}}},"protected":{{{},"breaker_opened":{},"breaker_closed":{}}}}}"#,
        bare.json(),
        protected.json(),
        opened,
        closed,
    );
    if as_described { Ok(()) } else { Err("the stack did not do what this example says".into()) }
}

/// Returns the path that follows `--svg`.
fn svg_path() -> Result<Option<String>, BoxError> {
    let mut args = env::args().skip(1);
    match args.next().as_deref() {
        None => Ok(None),
        Some("--svg") => Ok(Some(args.next().ok_or("--svg needs a path")?)),
        Some(other) => Err(format!("{other} is not --svg").into()),
    }
}

/// The counts of one run.
struct Run {
    total: Tally,
    /// The results of the calls made in each second, and what the server received in it.
    by_arrival: [Tally; SECONDS as usize],
}

/// Starts a server, sends it the traffic, and prints a line each second.
async fn run<S, B>(service: S, breaker: Option<&CircuitBreakerHandle>) -> Result<Run, BoxError>
where
    S: Service<Request, Response = Response<B>, Error = CallError, Future: Send>,
    S: Clone + Send + 'static,
    B: Body<Data: Send> + Send + 'static,
{
    let meter = Meter::default();
    let address = serve(meter.clone()).await?;
    let run_end = Instant::now() + Duration::from_secs(SECONDS) + LAST_CALLS;

    println!("{HEADING}  breaker");
    let mut total = Tally::default();
    let mut calls = JoinSet::new();
    let mut next = interval(Duration::from_secs(1) / RATE);
    for second in 0..SECONDS {
        for call in 0..RATE {
            // Callers do not wait for each other.
            next.tick().await;
            let customer = customer(second, call);
            let request = hyper::Request::get(format!("http://{address}/orders/{customer}"));
            let call = service.clone().oneshot(request.body(Empty::new())?);
            meter.note(|tally| tally.calls += 1);
            calls.spawn(measure(call, second, run_end));
        }
        while let Some(ended) = calls.try_join_next() {
            meter.ended(ended?);
        }
        let tally = meter.take();
        let state =
            breaker.map_or_else(|| "-".to_owned(), |breaker| format!("{:?}", breaker.state()));
        println!("{:>2} {:<8}{tally}  {state}", second + 1, Phase::at(second).name());
        meter.received(second, tally.server_requests);
        total.add(&tally);
    }
    while let Some(ended) = calls.join_next().await {
        meter.ended(ended?);
    }
    total.add(&meter.take());
    Ok(Run { total, by_arrival: meter.by_arrival() })
}

/// Returns the customer of a call: any of them, and the same one in both runs.
fn customer(second: u64, call: u32) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one((second, call)) % CUSTOMERS
}

/// Makes one call, and reads its response. Returns the second in which it was made, and its result.
async fn measure<B: Body>(
    call: impl Future<Output = Result<Response<B>, CallError>>,
    second: u64,
    run_end: Instant,
) -> (u64, Tally) {
    let started = Instant::now();
    // This timeout does not belong to the call. It only ends the run.
    let result = timeout_at(run_end, async {
        let (head, body) = call.await?.into_parts();
        Ok::<_, CallError>(body.collect().await.map(|_| head))
    });
    let result = result.await;
    let waited = started.elapsed();
    let mut tally = Tally { waits: vec![waited], ..Tally::default() };
    match result {
        Ok(Ok(Ok(head))) if head.extensions.get::<Degraded>().is_some() => tally.degraded = 1,
        Ok(Ok(Ok(head))) if head.status.is_success() => match waited < PROMPT {
            true => tally.prompt = 1,
            false => tally.late = 1,
        },
        Ok(Err(Error::Rejected(rejection))) => match rejection {
            Rejection::TimedOut(_) | Rejection::DeadlineExceeded(_) => tally.timed_out = 1,
            _ => tally.rejected = 1,
        },
        // A 5xx, a broken connection, or no response before the end of the run.
        _ => tally.failed = 1,
    }
    (second, tally)
}

/// The state of the server, which changes every three seconds.
#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// It responds after 20 ms; one request in 20 gets a 503.
    Healthy,
    /// It responds after 1.5 s.
    Slow,
    /// It responds at once with 503.
    Failing,
}

impl Phase {
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

/// The number of requests that the server handles at once, like a pool of threads. Others queue.
const WORKERS: usize = 24;

/// Starts a server and its clock.
async fn serve(meter: Meter) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let workers = Arc::new(Semaphore::new(WORKERS));
    let started = Instant::now();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (meter, workers) = (meter.clone(), Arc::clone(&workers));
            let service = hyper::service::service_fn(move |request| {
                respond(request, meter.clone(), Arc::clone(&workers), started)
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    Ok(address)
}

async fn respond(
    request: hyper::Request<Incoming>,
    meter: Meter,
    workers: Arc<Semaphore>,
    started: Instant,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let phase = || Phase::at(started.elapsed().as_secs());
    // The first attempt of a call does not have this header.
    let retry = request.headers().contains_key(wire::ATTEMPT_COUNT);
    let number = meter.note(|tally| {
        tally.server_requests += 1;
        tally.retries += u64::from(retry);
        tally.in_trouble += u64::from(phase() != Phase::Healthy);
        tally.server_requests
    });
    let _worker = workers.acquire().await;
    let (status, work) = match phase() {
        Phase::Healthy if number % 20 == 0 => (StatusCode::SERVICE_UNAVAILABLE, Duration::ZERO),
        Phase::Healthy => (StatusCode::OK, Duration::from_millis(20)),
        Phase::Slow => (StatusCode::OK, Duration::from_millis(1500)),
        Phase::Failing => (StatusCode::SERVICE_UNAVAILABLE, Duration::ZERO),
    };
    sleep(work).await;
    let mut response = Response::new(Full::from("3 orders"));
    *response.status_mut() = status;
    Ok(response)
}

/// The counts of a second or of a run.
#[derive(Clone, Default)]
struct Tally {
    calls: u64,
    /// The number of successful responses within [`PROMPT`].
    prompt: u64,
    /// The number of successful responses after that.
    late: u64,
    /// The number of older responses.
    degraded: u64,
    failed: u64,
    rejected: u64,
    timed_out: u64,
    retries: u64,
    server_requests: u64,
    /// The number of requests that the server received while it was slow or failing.
    in_trouble: u64,
    /// The time that each caller waited, whatever it got.
    waits: Vec<Duration>,
}

const HEADING: &str = " s server   sent prompt late degraded failed rejected timed-out \
                       retried received p50-ms p99-ms";

impl Tally {
    fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.prompt += other.prompt;
        self.late += other.late;
        self.degraded += other.degraded;
        self.failed += other.failed;
        self.rejected += other.rejected;
        self.timed_out += other.timed_out;
        self.retries += other.retries;
        self.server_requests += other.server_requests;
        self.in_trouble += other.in_trouble;
        self.waits.extend(&other.waits);
    }

    fn ok(&self) -> u64 {
        self.prompt + self.late
    }

    /// Returns the number of calls that got something to show.
    fn served(&self) -> u64 {
        self.ok() + self.degraded
    }

    fn adds_up(&self) -> bool {
        self.calls == self.served() + self.failed + self.rejected + self.timed_out
    }

    /// Returns a percentile of the waits in milliseconds.
    fn waited(&self, percent: usize) -> u128 {
        let mut waits = self.waits.clone();
        waits.sort_unstable();
        let rank = (waits.len() * percent).div_ceil(100);
        waits.get(rank.saturating_sub(1)).map_or(0, Duration::as_millis)
    }

    /// Returns the members of a JSON object.
    fn json(&self) -> String {
        format!(
            r#""calls":{},"ok":{},"prompt":{},"degraded":{},"failed":{},"rejected":{},"#,
            self.calls,
            self.ok(),
            self.prompt,
            self.degraded,
            self.failed,
            self.rejected,
        ) + &format!(
            r#""timed_out":{},"retries":{},"server_requests":{},"p50_ms":{},"p99_ms":{}"#,
            self.timed_out,
            self.retries,
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
            "{:>5} {:>6} {:>4} {:>8} {:>6} {:>8} {:>9} {:>7} {:>8} {:>6} {:>6}",
            self.calls,
            self.prompt,
            self.late,
            self.degraded,
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

/// The counts, which the callers and the server update.
#[derive(Clone, Default)]
struct Meter(Arc<Mutex<Counts>>);

#[derive(Default)]
struct Counts {
    /// The counts since the last [`Meter::take`].
    now: Tally,
    /// See [`Run::by_arrival`].
    by_arrival: [Tally; SECONDS as usize],
}

impl Meter {
    fn with<T>(&self, change: impl FnOnce(&mut Counts) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note<T>(&self, change: impl FnOnce(&mut Tally) -> T) -> T {
        self.with(|counts| change(&mut counts.now))
    }

    /// Notes the result of a call made in that second.
    fn ended(&self, (second, result): (u64, Tally)) {
        self.with(|counts| {
            counts.now.add(&result);
            counts.by_arrival[second as usize].add(&result);
        });
    }

    fn received(&self, second: u64, requests: u64) {
        self.with(|counts| counts.by_arrival[second as usize].server_requests = requests);
    }

    fn take(&self) -> Tally {
        self.with(|counts| mem::take(&mut counts.now))
    }

    fn by_arrival(&self) -> [Tally; SECONDS as usize] {
        self.with(|counts| mem::take(&mut counts.by_arrival))
    }
}
