//! Measures the cost that a stack adds to an HTTP call over hyper's client.
//!
//! It includes the deadline, the headers of the hop, the classification, and the end of the call
//! with the end of its body.
//!
//! ```sh
//! cargo bench -p micro --bench http
//! cargo bench -p micro --bench http -- --test
//! ```
//!
//! A server on loopback responds with five bytes, in its own thread. One connection carries all
//! calls, one after the other. There are three sides: hyper's client alone, the same again, and
//! the client in its stack. The two equal sides differ only by the noise of the machine.
//!
//! This package enables tokio's `test-util`, which puts a lock around the clock. The stack pays for
//! it a little, which it would not do in a program.

use std::{
    convert::Infallible,
    env,
    hint::black_box,
    io,
    net::SocketAddr,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use allocation_counter::measure;
use buttress::{BoxError, Stack, circuit_breaker::CircuitBreakerLayer};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{
    body::{Body, Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
};
use tower::{Service, ServiceExt};

/// The number of runs. Each ratio is the median of the runs' ratios.
const RUNS: usize = 5;

/// The number of calls in a side's turn. A slow moment of the machine then affects all sides.
const BLOCK: usize = 100;

fn main() -> Result<(), BoxError> {
    // Checks only that it works, because a few calls are too few to measure.
    let calls = if env::args().any(|arg| arg == "--test") { 4 * BLOCK } else { 40_000 };
    let uri: Uri = format!("http://{}/", serve()?).parse()?;
    let runtime = runtime()?;
    let _entered = runtime.enter();

    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let mut stacked = Stack::new()
        .total_timeout(Duration::from_secs(5))
        .circuit_breaker(CircuitBreakerLayer::new())
        .http()
        .service(client.clone());
    let (mut bare, mut again) = (client.clone(), client);

    let caller = Caller { runtime: &runtime, uri: &uri };
    caller.warm_up(&mut bare);
    caller.warm_up(&mut stacked);
    println!("            bare p50    p99     again / bare    stack / bare");
    println!("run            us        us     p50     p99     p50     p99");
    let (mut again_ratios, mut stack_ratios) = (Vec::new(), Vec::new());
    for run in 1..=RUNS {
        let mut times = [const { Vec::<Duration>::new() }; 3];
        for block in 0..calls / BLOCK {
            // Each side is first, second and third in turn, because the first finds another
            // side's caches.
            for turn in 0..3 {
                let side = (block + turn) % 3;
                let times = &mut times[side];
                match side {
                    0 => caller.block(&mut bare, times),
                    1 => caller.block(&mut again, times),
                    _ => caller.block(&mut stacked, times),
                }
            }
        }
        let [bare, again, stacked] = times.map(Percentiles::of);
        let (again, stacked) = (again.over(&bare), stacked.over(&bare));
        println!("{run:>3} {:>13.2} {:>9.2} {again} {stacked}", bare.p50 * 1e6, bare.p99 * 1e6);
        again_ratios.push(again);
        stack_ratios.push(stacked);
    }
    println!(
        "median                      {} {}",
        Percentiles::medians(&again_ratios),
        Percentiles::medians(&stack_ratios)
    );
    println!("at most                                          1.030   1.050\n");
    println!(
        "allocations of a call: bare {:.2}, stack {:.2}",
        caller.allocations(&mut bare),
        caller.allocations(&mut stacked)
    );
    Ok(())
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Starts the server, which runs until the program ends.
fn serve() -> Result<SocketAddr, BoxError> {
    let runtime = runtime()?;
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        runtime.block_on(async {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
            tell.send(listener.local_addr()?).map_err(io::Error::other)?;
            loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let answer = service_fn(|_: Request<Incoming>| async {
                    Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello")))
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
            #[expect(unreachable_code, reason = "it names the type of the error")]
            Ok::<(), io::Error>(())
        })
    });
    Ok(told.recv()?)
}

/// Makes the calls with the same code for all sides.
struct Caller<'a> {
    runtime: &'a Runtime,
    uri: &'a Uri,
}

impl Caller<'_> {
    fn warm_up<S, B>(&self, client: &mut S)
    where
        S: Service<Request<Empty<Bytes>>, Response = Response<B>, Error: Into<BoxError>>,
        B: Body<Data = Bytes, Error: Into<BoxError>>,
    {
        let mut times = Vec::new();
        for _ in 0..10 {
            self.block(client, &mut times);
        }
    }

    fn block<S, B>(&self, client: &mut S, times: &mut Vec<Duration>)
    where
        S: Service<Request<Empty<Bytes>>, Response = Response<B>, Error: Into<BoxError>>,
        B: Body<Data = Bytes, Error: Into<BoxError>>,
    {
        self.runtime.block_on(async {
            for _ in 0..BLOCK {
                let began = Instant::now();
                call(client, self.uri).await.expect("the server answers");
                times.push(began.elapsed());
            }
        });
    }

    /// Returns the allocations of a call in this thread: the client and its side of the connection.
    fn allocations<S, B>(&self, client: &mut S) -> f64
    where
        S: Service<Request<Empty<Bytes>>, Response = Response<B>, Error: Into<BoxError>>,
        B: Body<Data = Bytes, Error: Into<BoxError>>,
    {
        let mut times = Vec::with_capacity(BLOCK);
        let counted = measure(|| self.block(client, &mut times));
        counted.count_total as f64 / BLOCK as f64
    }
}

async fn call<S, B>(client: &mut S, uri: &Uri) -> Result<(), BoxError>
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>, Error: Into<BoxError>>,
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    let request = Request::get(uri.clone()).body(Empty::new())?;
    let client = client.ready().await.map_err(Into::into)?;
    let response = client.call(request).await.map_err(Into::into)?;
    let body = response.into_body().collect().await.map_err(Into::into)?.to_bytes();
    assert_eq!(black_box(body), "hello");
    Ok(())
}

/// Percentiles, in seconds or as ratios.
#[derive(Clone, Copy)]
struct Percentiles {
    p50: f64,
    p99: f64,
}

impl Percentiles {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |percent: usize| times[times.len() * percent / 100].as_secs_f64();
        Self { p50: at(50), p99: at(99) }
    }

    fn over(self, bare: &Self) -> Self {
        Self { p50: self.p50 / bare.p50, p99: self.p99 / bare.p99 }
    }

    fn medians(of: &[Self]) -> Self {
        let median = |mut values: Vec<f64>| {
            values.sort_unstable_by(f64::total_cmp);
            values[values.len() / 2]
        };
        Self {
            p50: median(of.iter().map(|one| one.p50).collect()),
            p99: median(of.iter().map(|one| one.p99).collect()),
        }
    }
}

impl std::fmt::Display for Percentiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:>7.3} {:>7.3}", self.p50, self.p99)
    }
}
