//! Gives each attempt its own `traceparent`, so that a server continues the trace of the attempt.
//!
//! ```sh
//! cargo run -p ecosystem --example traceparent
//! ```
//!
//! The server responds with 503 twice. It prints the header of each attempt: the trace is the same,
//! and the span is another each time. Then the spans are printed as OpenTelemetry sees them.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, extract::State};
use buttress::{
    BoxError, Stack,
    http::{HttpClientLayer, ReplaySafe},
    retry::{Backoff, RetryLayer},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use opentelemetry::{
    propagation::{Injector, TextMapPropagator},
    trace::TracerProvider,
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{InMemorySpanExporter, SdkTracerProvider},
};
use tokio::net::TcpListener;
use tower::ServiceExt;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{layer::SubscriberExt, registry::Registry};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("traceparent"));
    tracing::subscriber::set_global_default(Registry::default().with(layer))?;

    let seen = Seen::default();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let router = Router::new().fallback(serve).with_state(Arc::clone(&seen));
    tokio::spawn(async { axum::serve(listener, router).await });

    let propagator = TraceContextPropagator::new();
    // It runs in the span of the attempt.
    let http = HttpClientLayer::builder().on_send_fn(move |headers| {
        let context = tracing::Span::current().context();
        propagator.inject_context(&context, &mut Headers(headers));
    });
    let backoff = Backoff::exponential(Duration::from_millis(20)).build()?;
    let client = Stack::standard(ReplaySafe::new())
        .name("orders")
        .retry(RetryLayer::builder(ReplaySafe::new()).backoff(backoff).build()?)
        .http_client(http.build()?)
        .service(Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>());

    let request = Request::get(format!("http://{address}/orders")).body(Empty::new())?;
    let response = client.oneshot(request).await?;
    assert_eq!(response.status(), StatusCode::OK);
    response.into_body().collect().await?;

    let spans = exporter.get_finished_spans()?;
    for span in &spans {
        println!("{} {}: {:?}", span.name, span.span_context.span_id(), span.status);
    }
    let attempts = spans.iter().filter(|span| span.name == "attempt");
    let expected: Vec<_> = attempts
        .map(|span| {
            let context = &span.span_context;
            format!("00-{}-{}-01", context.trace_id(), context.span_id())
        })
        .collect();
    let seen = seen.lock().unwrap();
    assert_eq!(*seen, expected);
    assert_eq!(seen.iter().collect::<HashSet<_>>().len(), 3);
    Ok(())
}

/// The `traceparent` of each request.
type Seen = Arc<Mutex<Vec<String>>>;

async fn serve(State(seen): State<Seen>, headers: HeaderMap) -> StatusCode {
    let traceparent = headers.get("traceparent").and_then(|value| value.to_str().ok());
    println!("traceparent: {traceparent:?}");
    let mut seen = seen.lock().unwrap();
    seen.extend(traceparent.map(str::to_owned));
    if seen.len() < 3 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
}

/// Writes the headers of a propagator into those of a request.
struct Headers<'a>(&'a mut HeaderMap);

impl Injector for Headers<'_> {
    fn set(&mut self, key: &str, value: String) {
        let name = HeaderName::from_bytes(key.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}
