//! Observes a client during an outage of its dependency: the log, the traces and the numbers.
//!
//! ```sh
//! cargo run -p ecosystem --example observed
//! cargo run -p ecosystem --example observed -- --prometheus
//! ```
//!
//! Meanwhile, the page at the printed address shows the outage. With `--prometheus`, a Prometheus
//! server scrapes the same admin, and answers the queries of the dashboard. `.ci/prometheus.sh`
//! fetches its program.
//!
//! The server is healthy for 3 s, down for 20 s, and healthy again. Even while healthy, it responds
//! to one request in 20 with a 503. It gets 40 calls a second. At the end, the example compares the
//! numbers of the registry with the results of the callers, the requests of the server, the spans,
//! the events and a scrape.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, extract::State, routing::get};
use buttress::{
    BoxError, Stack,
    circuit_breaker::{CircuitBreakerLayer, State as Circuit},
    http::reqwest::{StackedClient, client},
    telemetry::{Registry, field},
};
use buttress_admin::Admin;
use http::StatusCode;
use test_servers::prometheus::PrometheusServer;
use tokio::{net::TcpListener, task::JoinSet, time::interval};
use tracing::{Event, Level, Subscriber, field::Visit, span};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
    registry::{LookupSpan, SpanRef},
};

const CALLS_PER_SECOND: u32 = 40;
const HEALTHY: Duration = Duration::from_secs(3);
const OUTAGE: Duration = Duration::from_secs(20);
/// The longest open time of the circuit is 5 s, plus jitter.
const RECOVERY: Duration = Duration::from_secs(8);

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let watched = Watched::default();
    let subscriber = tracing_subscriber::registry().with(watched.clone());
    tracing::subscriber::set_global_default(subscriber)?;

    let server = Arc::new(Server::default());
    let address = server.clone().serve().await?;

    let registry = Registry::new();
    let breaker = CircuitBreakerLayer::builder()
        .open_for(Duration::from_secs(1))
        .max_open_for(Duration::from_secs(5))
        .build()?;
    let circuit = breaker.handle();
    let stack = Stack::standard_http().circuit_breaker(breaker).name("orders").register(&registry);
    let orders = client(reqwest::Client::new(), stack);

    let admin = serve(Router::new().nest_service("/buttress", Admin::new(&registry))).await?;
    println!("the page is at http://{admin}/buttress/");
    let prometheus = if std::env::args().any(|argument| argument == "--prometheus") {
        Some(PrometheusServer::scraping(admin, "/buttress/metrics")?)
    } else {
        None
    };

    let made = call_in_phases(&orders, &server, address).await?;
    assert_eq!(circuit.state(), Circuit::Closed, "the circuit closes after the outage");
    println!("\nthe first call of each outcome, without and with a retry:\n");
    print!("{}", watched.trees());

    let scrape = reqwest::get(format!("http://{admin}/buttress/metrics")).await?.text().await?;
    let summary = Summary::new(&registry, &watched, &server, &scrape);
    println!("summary {}", summary.json());
    summary.check(&made);
    if let Some(prometheus) = prometheus {
        tokio::task::spawn_blocking(move || query_dashboard(&prometheus)).await??;
    }
    Ok(())
}

/// Asks Prometheus each query of the dashboard. Each must be valid and have a series.
fn query_dashboard(prometheus: &PrometheusServer) -> Result<(), BoxError> {
    let dashboard = include_str!("../../../docs/monitoring/dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_str(dashboard)?;
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let mut answered = 0;
    for query in targets.filter_map(|target| target["expr"].as_str()) {
        // The stack has none of these layers, and no request has a body.
        let absent = ["idempotency", "fallback", "cache", "endpoints", "overflow"];
        if absent.iter().any(|word| query.contains(word)) {
            continue;
        }
        let query = query.replace("$__rate_interval", "40s");
        prometheus.query(&query.replace("$job", ".+").replace("$stack", "orders"))?;
        answered += 1;
    }
    println!("Prometheus answered {answered} queries of the dashboard");
    Ok(())
}

/// Serves an application on a port of the loopback address.
async fn serve(app: Router) -> Result<SocketAddr, BoxError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async { axum::serve(listener, app).await });
    Ok(address)
}

/// Makes calls before, during and after the outage. Returns the number of each result.
async fn call_in_phases(
    orders: &StackedClient,
    server: &Server,
    address: SocketAddr,
) -> Result<BTreeMap<String, u64>, BoxError> {
    let mut all = BTreeMap::<String, u64>::new();
    for (phase, takes) in [("healthy", HEALTHY), ("outage", OUTAGE), ("healthy", RECOVERY)] {
        server.is_down.store(phase == "outage", Ordering::Relaxed);
        println!("\n{phase} for {takes:?}");
        let mut ticks = interval(Duration::from_secs(1) / CALLS_PER_SECOND);
        let mut calls = JoinSet::new();
        for _ in 0..takes.as_secs() * u64::from(CALLS_PER_SECOND) {
            ticks.tick().await;
            let request = orders.get(format!("http://{address}/orders"));
            calls.spawn(async move {
                match request.send().await {
                    Ok(response) => {
                        let status = response.status();
                        // Reads the body, because the call ends with it.
                        response
                            .text()
                            .await
                            .map_or("broken body".to_owned(), |_| status.to_string())
                    }
                    Err(error) => match error {
                        buttress::Error::Rejected(rejection) => rejection.kind().to_owned(),
                        buttress::Error::Service(error) => error.to_string(),
                    },
                }
            });
        }
        let mut results = BTreeMap::<String, u64>::new();
        while let Some(result) = calls.join_next().await {
            *results.entry(result?).or_default() += 1;
        }
        println!("  callers got {results:?}");
        for (result, count) in results {
            *all.entry(result).or_default() += count;
        }
    }
    Ok(all)
}

/// A server that can be down.
#[derive(Default)]
struct Server {
    is_down: AtomicBool,
    requests: AtomicU64,
}

impl Server {
    async fn serve(self: Arc<Self>) -> Result<SocketAddr, BoxError> {
        serve(Router::new().route("/orders", get(Self::respond)).with_state(self)).await
    }

    async fn respond(State(server): State<Arc<Self>>) -> (StatusCode, &'static str) {
        let before = server.requests.fetch_add(1, Ordering::Relaxed);
        if server.is_down.load(Ordering::Relaxed) || before % 20 == 19 {
            return (StatusCode::SERVICE_UNAVAILABLE, "no orders");
        }
        (StatusCode::OK, "two orders")
    }
}

/// The same numbers from several sides.
struct Summary {
    calls: u64,
    attempts: u64,
    /// Attempts that a layer rejected before they reached the server.
    rejected_attempts: u64,
    rejections: u64,
    spans: u64,
    attempt_spans: u64,
    /// The events "call rejected", with those that the log suppressed.
    rejection_events: u64,
    scraped_calls: u64,
    server_requests: u64,
}

impl Summary {
    fn new(registry: &Registry, watched: &Watched, server: &Server, scrape: &str) -> Self {
        let rejected = Some((field::OUTCOME, "rejected"));
        Self {
            calls: total(registry, "buttress.call.duration", None),
            attempts: total(registry, "buttress.attempt.duration", None),
            rejected_attempts: total(registry, "buttress.attempt.duration", rejected),
            rejections: total(registry, "buttress.rejections", None),
            spans: watched.count("call"),
            attempt_spans: watched.count("attempt"),
            rejection_events: watched.count("call rejected"),
            scraped_calls: scraped_calls(scrape),
            server_requests: server.requests.load(Ordering::Relaxed),
        }
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "calls": self.calls,
            "attempts": self.attempts,
            "rejections": self.rejections,
            "spans": self.spans,
            "scraped_calls": self.scraped_calls,
            "server_requests": self.server_requests,
        })
    }

    /// Checks that all sides agree, `made` being the results that the callers got.
    fn check(&self, made: &BTreeMap<String, u64>) {
        let seconds = (HEALTHY + OUTAGE + RECOVERY).as_secs();
        assert_eq!(made.values().sum::<u64>(), seconds * u64::from(CALLS_PER_SECOND));
        assert!(made.contains_key("circuit_open"), "the circuit opened");
        assert_eq!(self.spans, made.values().sum::<u64>(), "a span for each call");
        assert_eq!(self.calls, self.spans, "the registry and the spans");
        assert_eq!(self.scraped_calls, self.calls, "the exporter and the registry");
        assert_eq!(self.attempts, self.attempt_spans, "a span for each attempt");
        assert_eq!(self.rejections, self.rejection_events, "the registry and the log");
        // Only the breaker rejects, and it is beneath the retry.
        assert_eq!(self.rejections, self.rejected_attempts);
        assert_eq!(self.server_requests, self.attempts - self.rejected_attempts, "the server");
    }
}

/// Returns the sum of the series of the stack that have this attribute.
fn total(registry: &Registry, instrument: &str, only: Option<(&str, &str)>) -> u64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.instrument.name == instrument);
    let series = family.into_iter().flat_map(|family| &family.series);
    let series = series.filter(|series| series.attribute(field::STACK) == Some("orders"));
    let series = series
        .filter(|series| only.is_none_or(|(name, value)| series.attribute(name) == Some(value)));
    series.map(|series| series.value.as_number() as u64).sum()
}

/// Returns the calls that a scrape shows.
fn scraped_calls(scrape: &str) -> u64 {
    let counts =
        scrape.lines().filter(|line| line.starts_with("buttress_call_duration_seconds_count"));
    counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
}

/// A layer of `tracing` that prints what the log would show, and keeps a tree of some calls.
#[derive(Clone, Default)]
struct Watched(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    /// The number of ended spans and of events, by name.
    counts: BTreeMap<String, u64>,
    /// The tree of the first call of each outcome, and of the first that was retried.
    trees: BTreeMap<(String, bool), Tree>,
}

/// A span, with the spans in it.
struct Tree {
    name: &'static str,
    began: Instant,
    took: Duration,
    fields: Fields,
    within: Vec<Tree>,
}

#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}

impl Tree {
    fn draw(&self, indent: usize, out: &mut String) {
        let Self { name, took, fields, .. } = self;
        _ = writeln!(out, "{:indent$}{name} {:.1} ms{fields}", "", took.as_secs_f64() * 1e3);
        self.within.iter().for_each(|tree| tree.draw(indent + 2, out));
    }
}

impl Watched {
    fn count(&self, name: &str) -> u64 {
        self.0.lock().unwrap().counts.get(name).copied().unwrap_or_default()
    }

    fn trees(&self) -> String {
        let mut out = String::new();
        self.0.lock().unwrap().trees.values().for_each(|tree| tree.draw(2, &mut out));
        out
    }
}

impl<S> Layer<S> for Watched
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.target().starts_with("buttress")
    }

    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let (name, began) = (span.name(), Instant::now());
        let tree = Tree { name, began, took: Duration::ZERO, fields, within: Vec::new() };
        span.extensions_mut().insert(tree);
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        if let Some(tree) = span.extensions_mut().get_mut::<Tree>() {
            values.record(&mut tree.fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let text = fields.0.remove("message").unwrap_or_default();
        let level = *event.metadata().level();
        if level <= Level::INFO {
            println!("  {level:5} {text}{fields}");
        }
        *self.0.lock().unwrap().counts.entry(text).or_default() += 1;
    }

    fn on_close(&self, id: span::Id, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(&id) else { return };
        let Some(mut tree) = span.extensions_mut().remove::<Tree>() else { return };
        tree.took = tree.began.elapsed();
        let mut seen = self.0.lock().unwrap();
        *seen.counts.entry(tree.name.to_owned()).or_default() += 1;
        let parent = span.parent();
        let mut parent = parent.as_ref().map(SpanRef::extensions_mut);
        match parent.as_mut().and_then(|parent| parent.get_mut::<Tree>()) {
            Some(parent) => parent.within.push(tree),
            None => {
                let outcome = tree.fields.0.get(field::OUTCOME).cloned().unwrap_or_default();
                let was_retried = tree.within.len() > 1;
                seen.trees.entry((outcome, was_retried)).or_insert(tree);
            }
        }
    }
}
