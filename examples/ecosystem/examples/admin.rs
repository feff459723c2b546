//! Serves the page of an admin over three dependencies, one of which is ill.
//!
//! ```sh
//! cargo run -p ecosystem --example admin
//! cargo run -p ecosystem --example admin -- --outage bulkhead --port 9000
//! cargo run -p ecosystem --example admin -- --seconds 10
//! ```
//!
//! `--outage` is `down`, which is the default, or `bulkhead`, `forced` or `none`. `--seconds` ends
//! the example, which otherwise runs until Ctrl-C. The page can also change the layers, because
//! only this machine reaches it.

use std::{
    env,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::State, routing::get};
use buttress::{
    BoxError, Stack,
    bulkhead::BulkheadLayer,
    http::reqwest::{StackedClient, client},
    telemetry::Registry,
};
use buttress_admin::{Actor, Admin};
use http::StatusCode;
use tokio::{
    net::TcpListener,
    signal,
    time::{interval, sleep},
};

const CALLS_PER_SECOND: u32 = 40;
/// The dependencies are well for this time, so that the page shows the change.
const WELL_FOR: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let options = Options::read()?;
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).init();

    let registry = Registry::new();
    for name in ["orders", "rates", "users"] {
        let server = Arc::new(Server { name, ..Server::default() });
        let is_ill = name == "rates" && options.outage == "down";
        let address = serve(server.clone().app(), 0).await?;
        let mut stack = Stack::standard_http().name(name).register(&registry);
        if name == "orders" && options.outage == "bulkhead" {
            let few = BulkheadLayer::builder().max_concurrent(2).build()?;
            stack = stack.bulkhead(few);
        }
        let breaker = stack.circuit_breaker_handle();
        if let Some(breaker) = breaker.filter(|_| name == "users" && options.outage == "forced") {
            breaker.force_open();
        }
        let url = format!("http://{address}/");
        tokio::spawn(call_for_ever(client(reqwest::Client::new(), stack), url));
        tokio::spawn(async move {
            sleep(WELL_FOR).await;
            server.is_down.store(is_ill, Ordering::Relaxed);
        });
    }

    let admin = Admin::new(&registry).allow_changes(|_| Some(Actor::new("somebody here")));
    let app = Router::new().nest_service("/buttress", admin);
    let address = serve(app, options.port).await?;
    println!("the page is at http://{address}/buttress/");
    match options.seconds {
        Some(seconds) => sleep(seconds).await,
        None => signal::ctrl_c().await?,
    }
    let state = reqwest::get(format!("http://{address}/buttress/state.json")).await?;
    println!("{}", state.text().await?);
    Ok(())
}

struct Options {
    outage: String,
    port: u16,
    seconds: Option<Duration>,
}

impl Options {
    fn read() -> Result<Self, BoxError> {
        let mut options = Self { outage: "down".to_owned(), port: 0, seconds: None };
        let mut arguments = env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let value = arguments.next().ok_or("an option needs a value")?;
            match argument.as_str() {
                "--outage" => options.outage = value,
                "--port" => options.port = value.parse()?,
                "--seconds" => options.seconds = Some(Duration::from_secs(value.parse()?)),
                other => return Err(format!("unknown option {other}").into()),
            }
        }
        if !["down", "bulkhead", "forced", "none"].contains(&options.outage.as_str()) {
            return Err(format!("unknown outage {}", options.outage).into());
        }
        Ok(options)
    }
}

async fn call_for_ever(client: StackedClient, url: String) {
    let mut ticks = interval(Duration::from_secs(1) / CALLS_PER_SECOND);
    loop {
        ticks.tick().await;
        let request = client.get(&url);
        tokio::spawn(async move {
            if let Ok(response) = request.send().await {
                // Reads the body, because the call ends with it.
                _ = response.text().await;
            }
        });
    }
}

#[derive(Default)]
struct Server {
    name: &'static str,
    is_down: AtomicBool,
    requests: AtomicU64,
}

impl Server {
    fn app(self: Arc<Self>) -> Router {
        Router::new().route("/", get(Self::respond)).with_state(self)
    }

    async fn respond(State(server): State<Arc<Self>>) -> (StatusCode, &'static str) {
        let before = server.requests.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(60)).await;
        if server.is_down.load(Ordering::Relaxed) || before % 50 == 49 {
            return (StatusCode::SERVICE_UNAVAILABLE, "ill");
        }
        (StatusCode::OK, server.name)
    }
}

/// Serves an application on a port of the loopback address.
async fn serve(app: Router, port: u16) -> Result<SocketAddr, BoxError> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async { axum::serve(listener, app).await });
    Ok(address)
}
