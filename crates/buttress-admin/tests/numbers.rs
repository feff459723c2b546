//! The numbers and events of real stacks.

use std::{future::pending, io, time::Duration};

use buttress::{Stack, bulkhead::BulkheadLayer, telemetry::Registry};
use buttress_admin::{Actor, Admin, Whose, diagnose};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use serde_json::Value;
use tokio::time::{Instant, sleep};
use tower::{Service, ServiceExt, util::BoxCloneSyncService};

async fn state(admin: &Admin) -> Value {
    let request = Request::get("/state.json").header("host", "localhost");
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let response = admin.clone().oneshot(request).await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/json");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap()
}

async fn metrics(admin: &Admin) -> String {
    let request = Request::get("/metrics").header("host", "localhost");
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let response = admin.clone().oneshot(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

type Client = BoxCloneSyncService<(), (), buttress::Error<io::Error>>;

/// A stack with one slot, which a call that never ends has taken.
async fn full(registry: &Registry, name: &str) -> Client {
    let hangs = tower::service_fn(|(): ()| pending::<io::Result<()>>());
    let bulkhead = BulkheadLayer::builder().max_concurrent(1).build().unwrap();
    let stack = Stack::new().bulkhead(bulkhead).name(name.to_owned()).register(registry);
    let mut service = BoxCloneSyncService::new(stack.service(hangs));
    let call = service.ready().await.unwrap().call(());
    tokio::spawn(call);
    tokio::task::yield_now().await;
    service
}

/// Lets a service reject ten calls in a second, until it is aborted.
fn reject(service: Client) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            sleep(Duration::from_millis(100)).await;
            _ = service.clone().oneshot(()).await;
        }
    })
}

#[tokio::test(start_paused = true)]
async fn one_request_alone_has_the_rates_of_one_second() {
    let registry = Registry::new();
    let admin = Admin::new(&registry);
    let load = reject(full(&registry, "orders").await);
    sleep(Duration::from_secs(60)).await;
    for _ in 0..2 {
        let began = Instant::now();
        let state = state(&admin).await;
        assert!((1_000..1_010).contains(&began.elapsed().as_millis()));
        let orders = &state["dependencies"][0];
        assert_eq!(orders["name"], "orders");
        assert_eq!(orders["whose"], "us");
        assert_eq!(orders["severity"], "critical");
        let sentence = orders["sentence"].as_str().unwrap();
        assert!(sentence.contains("10 calls/s are rejected."), "{sentence}");
        sleep(Duration::from_secs(100)).await;
    }
    load.abort();
}

#[tokio::test(start_paused = true)]
async fn a_page_that_asks_each_second_has_the_rates_of_ten() {
    let registry = Registry::new();
    let admin = Admin::new(&registry);
    let load = reject(full(&registry, "orders").await);
    state(&admin).await;
    for second in 2..30 {
        sleep(Duration::from_secs(1)).await;
        let began = Instant::now();
        let state = state(&admin).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        let seconds = state["dependencies"][0]["seconds"].as_f64().unwrap();
        let expected =
            if second < 9 { second as f64 - 0.1..=second as f64 + 0.1 } else { 8.5..=10.5 };
        assert!(expected.contains(&seconds), "{seconds} after {second}");
        let count = state["dependencies"][0]["rejections"][0]["count"].as_f64().unwrap();
        assert!((count / seconds - 10.0).abs() < 1.0, "{count} in {seconds}");
    }
    load.abort();
}

#[tokio::test(start_paused = true)]
async fn the_sentence_in_the_document_is_that_of_the_function() {
    let registry = Registry::new();
    let admin = Admin::new(&registry);
    let load = reject(full(&registry, "orders").await);
    state(&admin).await;
    let snapshots = admin.snapshots().await;
    let state = state(&admin).await;
    assert_eq!(snapshots.len(), 1);
    let diagnosis = diagnose(&snapshots[0]);
    assert_eq!(diagnosis.whose, Whose::Us);
    assert_eq!(state["dependencies"][0]["sentence"], *diagnosis.sentence);
    load.abort();
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_one_line_of_the_events() {
    let registry = Registry::new();
    let admin = Admin::new(&registry);
    let service = full(&registry, "orders").await;
    for _ in 0..10_000 {
        _ = service.clone().oneshot(()).await;
    }
    let document = state(&admin).await;
    let events = document["events"].as_array().unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["times"], 10_000);
    assert_eq!(
        (&events[0]["what"], &events[0]["detail"]),
        (&"call rejected".into(), &"bulkhead_full".into())
    );
    assert_eq!((&events[0]["stack"], &events[0]["kind"]), (&"orders".into(), &"bulkhead".into()));
    // The next outage has a line of its own, which comes first.
    sleep(Duration::from_secs(300)).await;
    _ = service.clone().oneshot(()).await;
    let document = state(&admin).await;
    let events = document["events"].as_array().unwrap();
    assert_eq!([&events[0]["times"], &events[1]["times"]], [1, 10_000]);
    let ago = events[1]["ago"].as_f64().unwrap();
    assert!((300.0..310.0).contains(&ago), "{ago}");
}

#[tokio::test(start_paused = true)]
async fn the_memory_of_the_events_is_bounded() {
    let registry = Registry::new();
    let admin = Admin::new(&registry);
    for number in 0..300 {
        let name = format!("{number}{}", "ä".repeat(1_000));
        _ = full(&registry, &name).await.oneshot(()).await;
    }
    let document = state(&admin).await;
    let events = document["events"].as_array().unwrap();
    assert_eq!(events.len(), 100);
    assert!(serde_json::to_vec(events).unwrap().len() < 100 * 500);
}

#[tokio::test(start_paused = true)]
async fn names_with_any_characters_are_names() {
    let names =
        ["<img src=x onerror=alert(1)>", " ", "\"\\\n\r\0", "\u{202e}evil", "</script>", "ü"];
    let registry = Registry::new();
    let admin = Admin::new(&registry);
    let mut services = Vec::new();
    for name in names {
        let service = full(&registry, name).await;
        _ = service.clone().oneshot(()).await;
        services.push(service);
    }
    let document = state(&admin).await;
    let dependencies = document["dependencies"].as_array().unwrap();
    let mut found: Vec<_> = dependencies.iter().map(|it| it["name"].as_str().unwrap()).collect();
    let mut names = names.to_vec();
    found.sort_unstable();
    names.sort_unstable();
    assert_eq!(found, names);
    assert_eq!(document["events"].as_array().unwrap().len(), names.len());
    // A line of its own would be a number that somebody made up.
    assert!(metrics(&admin).await.lines().all(|line| line.starts_with(['b', '#'])));
}

#[tokio::test(start_paused = true)]
async fn layers_may_come_and_go_between_two_readings() {
    let registry = Registry::new();
    let admin = Admin::new(&registry);
    let orders = full(&registry, "orders").await;
    _ = orders.clone().oneshot(()).await;
    let asking = tokio::spawn({
        let admin = admin.clone();
        async move { state(&admin).await }
    });
    sleep(Duration::from_millis(500)).await;
    drop(orders);
    let payments = full(&registry, "payments").await;
    _ = payments.clone().oneshot(()).await;
    let document = asking.await.unwrap();
    let names: Vec<_> =
        document["dependencies"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert!(names.contains(&&Value::from("payments")));
    // The call that hangs keeps a layer of `orders` alive.
    assert!(document["dependencies"][0]["sentence"].is_string());
    let snapshots = admin.snapshots().await;
    let payments = snapshots.iter().find(|it| it.name == "payments").unwrap();
    assert_eq!(payments.rejections[0].count, 1);
}

#[tokio::test(start_paused = true)]
async fn an_admin_that_is_dropped_costs_nothing() {
    let registry = Registry::new();
    for _ in 0..100 {
        drop(Admin::new(&registry));
    }
    let admin = Admin::new(&registry);
    _ = full(&registry, "orders").await.oneshot(()).await;
    assert_eq!(state(&admin).await["events"].as_array().unwrap().len(), 1);
    _ = Actor::new("ada");
}
