//! Checks of the text by `promtool` and by a server of Prometheus.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    future::{pending, poll_fn},
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    pin::Pin,
    task::Poll,
    thread,
};

use buttress::{
    Stack,
    bulkhead::BulkheadLayer,
    retry::ReplayClones,
    telemetry::{BUCKETS, CATALOGUE, Registry},
};
use buttress_prometheus::{collector, render};
use prometheus_client::encoding::text;
use serde_json::Value;
use test_servers::{PrometheusServer, prometheus::check_metrics};
use tower::{ServiceExt, service_fn};

/// Characters that a text or a query could take for something else.
const TRICKY: [char; 14] =
    ['"', '\\', '\n', '\r', '\0', '\t', '{', '}', ',', '=', '#', ' ', 'n', '\u{1F980}'];

/// Returns names of up to two tricky characters, and some longer ones.
fn tricky_names() -> Vec<String> {
    let one = TRICKY.map(String::from);
    let two = TRICKY.iter().flat_map(|a| TRICKY.iter().map(move |b| format!("{a}{b}")));
    let long = ["", "orders", "<img src=x onerror=..>", "a\",le=\"1\"} 7\nb{c=\"", "\\\\\"\\n"];
    one.into_iter().chain(two).chain(long.map(String::from)).collect()
}

/// Registers a stack whose calls are retried and fail, calls it, and returns it.
async fn orders(registry: &Registry, name: &str) -> impl Sized + use<> {
    let broken = service_fn(|_: u32| async { Err::<u32, _>(io::Error::other("broken")) });
    let stack = Stack::standard(ReplayClones).name(name).register(registry).service(broken);
    for _ in 0..5 {
        _ = stack.clone().oneshot(7).await;
    }
    stack
}

/// Registers a stack whose bulkhead rejects each call.
async fn full(registry: &Registry) -> impl Sized + use<> {
    let hangs = service_fn(|_: u32| pending::<Result<u32, io::Error>>());
    let bulkhead = BulkheadLayer::builder().max_concurrent(1).build().unwrap();
    let stack = Stack::new().bulkhead(bulkhead).name("full").register(registry).service(hangs);
    let mut first = Box::pin(stack.clone().oneshot(1));
    assert!(poll_once(&mut first).await.is_none());
    for _ in 0..3 {
        stack.clone().oneshot(2).await.unwrap_err();
    }
    (stack, first)
}

/// Polls a future once.
async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    poll_fn(|cx| match Pin::new(&mut *future).poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Answers scrapes, and checks that Prometheus itself asks for OpenMetrics.
fn serve(registry: &Registry, honour_accept: bool) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let registry = registry.clone();
    thread::spawn(move || -> io::Result<Infallible> {
        loop {
            let (mut connection, _) = listener.accept()?;
            let lines = BufReader::new(connection.try_clone()?).lines();
            let mut accept = None;
            for line in lines {
                let line = line?;
                match line.split_once(": ") {
                    Some((name, value)) if name.eq_ignore_ascii_case("accept") => {
                        accept = Some(value.to_owned());
                    }
                    Some(_) => {}
                    None if line.is_empty() => break,
                    None => {}
                }
            }
            let accept = accept.filter(|_| honour_accept);
            let (content_type, body) = render(&registry, accept.as_deref());
            assert_eq!(content_type.contains("openmetrics"), honour_accept);
            write!(
                connection,
                "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\nconnection: close\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            )?;
        }
    });
    address
}

#[tokio::test(start_paused = true)]
async fn promtool_accepts_the_text_whatever_the_names_are() {
    let registry = Registry::new();
    let mut stacks = Vec::new();
    for name in tricky_names() {
        stacks.push(orders(&registry, &name).await);
    }
    let (content_type, body) = render(&registry, Some("text/plain"));
    assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8");
    let advice = check_metrics(&body).unwrap();
    assert_eq!(advice, "");
}

#[tokio::test(start_paused = true)]
async fn no_two_series_are_equal() {
    let registry = Registry::new();
    let stacks = [orders(&registry, "a").await, orders(&registry, "a").await];
    let unnamed = orders(&registry, "").await;
    for accept in [None, Some("application/openmetrics-text")] {
        let (_, body) = render(&registry, accept);
        let lines = body.lines().filter(|line| !line.starts_with('#'));
        let series: Vec<_> = lines.map(|line| line.rsplit_once(' ').unwrap().0).collect();
        let distinct: BTreeSet<_> = series.iter().collect();
        assert_eq!(series.len(), distinct.len());
        assert!(!body.contains("=\"\""), "an empty label is a missing one");
    }
    drop((stacks, unnamed));
}

#[tokio::test(start_paused = true)]
async fn both_formats_have_the_same_series_and_numbers() {
    let registry = Registry::new();
    let _stacks = (orders(&registry, "orders").await, full(&registry).await);
    let series = |accept| {
        let (_, body) = render(&registry, accept);
        let lines = body.lines().filter(|line| !line.starts_with('#'));
        let sorted = |line: &str| {
            // The formats have the label `le` in different places.
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let labels: BTreeSet<_> = labels.trim_end_matches('}').split(',').collect();
            let bounds = |label: &str| {
                let bound = label.strip_prefix("le=\"")?.strip_suffix('"')?;
                Some(format!("le={:?}", bound.parse::<f64>().unwrap()))
            };
            let labels = labels.into_iter().map(|it| bounds(it).unwrap_or_else(|| it.to_owned()));
            (
                name.to_owned(),
                labels.collect::<BTreeSet<_>>(),
                value.parse::<f64>().unwrap().to_bits(),
            )
        };
        lines.map(sorted).collect::<BTreeSet<_>>()
    };
    let text = series(None);
    assert_eq!(text, series(Some("application/openmetrics-text; version=1.0.0")));
}

#[tokio::test(start_paused = true)]
async fn a_histogram_ends_with_infinity_and_its_counts_are_cumulative() {
    let registry = Registry::new();
    let _stack = orders(&registry, "orders").await;
    let (_, body) = render(&registry, None);
    let buckets: Vec<_> = body
        .lines()
        .filter_map(|line| line.strip_prefix("buttress_retry_delay_seconds_bucket{"))
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(labels, count)| (labels.to_owned(), count.parse::<u64>().unwrap()))
        .collect();
    assert_eq!(buckets.len(), BUCKETS.len() + 1);
    assert!(buckets.is_sorted_by_key(|(_, count)| *count));
    let (labels, count) = buckets.last().unwrap();
    assert!(labels.contains("le=\"+Inf\""), "{labels}");
    let total = format!(
        "buttress_retry_delay_seconds_count{{buttress_stack=\"orders\",\
         buttress_layer=\"orders\"}} {count}"
    );
    assert!(*count > 0 && body.contains(&total), "{total}\n{body}");
}

#[tokio::test(start_paused = true)]
async fn every_instrument_with_a_series_has_the_name_that_the_catalogue_says() {
    let registry = Registry::new();
    let _stack = orders(&registry, "orders").await;
    let families = registry.gather();
    for accept in [None, Some("application/openmetrics-text")] {
        let (_, body) = render(&registry, accept);
        for instrument in CATALOGUE {
            let name = instrument.prometheus_name();
            let listed = families.iter().any(|family| family.instrument.name == instrument.name);
            let shown = body.lines().any(|line| {
                line.strip_prefix(&name).is_some_and(|rest| {
                    [' ', '{'].iter().any(|it| rest.starts_with(*it)) || rest.starts_with("_count")
                })
            });
            assert_eq!(listed, shown, "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_layer_has_no_series() {
    let registry = Registry::new();
    let stack = orders(&registry, "orders").await;
    let mut metrics = prometheus_client::registry::Registry::default();
    metrics.register_collector(Box::new(collector(&registry)));
    let text = || {
        let mut body = String::new();
        text::encode(&mut body, &metrics).unwrap();
        body
    };
    assert!(text().contains("buttress_stack=\"orders\""));
    drop(stack);
    assert!(!text().contains("buttress_stack"));
    assert!(text().contains("buttress_info"));
}

#[tokio::test(start_paused = true)]
async fn prometheus_scrapes_both_formats_and_answers_queries() {
    let registry = Registry::new();
    let mut stacks = Vec::new();
    // Few enough for a scrape by an unoptimized build on a busy machine.
    let mut names = tricky_names();
    names.retain(|name| name.chars().count() != 2);
    for name in &names {
        stacks.push(orders(&registry, name).await);
    }
    let _full = full(&registry).await;
    for honour_accept in [true, false] {
        let server =
            PrometheusServer::scraping(serve(&registry, honour_accept), "/metrics").unwrap();
        let value = |query: &str| -> f64 {
            let body: Value = serde_json::from_str(&server.query(query).unwrap()).unwrap();
            body["data"]["result"][0]["value"][1].as_str().unwrap().parse().unwrap()
        };
        let rejected =
            "buttress_rejections_total{buttress_stack='full',error_type='bulkhead_full'}";
        assert_eq!(value(rejected), 3.0);
        assert_eq!(
            value("buttress_rejections_total{buttress_stack='full',error_type='queue_timed_out'}"),
            0.0
        );
        let quantile = value(
            "histogram_quantile(0.9, buttress_retry_delay_seconds_bucket{buttress_stack='orders'})",
        );
        assert!(quantile > 0.0 && quantile < 30.0, "{quantile}");
        assert!(
            value(r#"sum(buttress_attempt_resends_total{buttress_stack='a",le="1"} 7\nb{c="'})"#)
                > 0.0
        );

        let labels = server.get("/api/v1/label/buttress_stack/values").unwrap();
        let labels: Value = serde_json::from_str(&labels).unwrap();
        let seen: BTreeSet<_> = labels["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it.as_str().unwrap().to_owned())
            .collect();
        // The calls of a stack without a name have `call`.
        let expected = names.iter().map(|name| if name.is_empty() { "call" } else { name });
        let expected = expected.map(str::to_owned).chain(["full".to_owned()]);
        assert_eq!(seen, expected.collect());
    }
}
