//! Outages of real stacks, as the document tells them.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use buttress::{
    BoxError, Stack,
    circuit_breaker::CircuitBreakerLayer,
    fallback::FallbackLayer,
    http::ResponseBody,
    telemetry::{Control, Registry},
};
use buttress_admin::{Admin, Snapshot, Whose, diagnose};
use http::{Request, Response};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use tower::{ServiceExt, util::BoxCloneSyncService};

type Client<B> = BoxCloneSyncService<Request<String>, Response<B>, BoxError>;
/// A client with a stack around it.
type Stacked = Client<ResponseBody<String>>;

/// A dependency that responds with a status after a time. It never responds with status 0.
#[derive(Clone, Default)]
struct Dependency(Arc<[AtomicU64; 2]>);

impl Dependency {
    fn set(&self, status: u16, millis: u64) {
        self.0[0].store(status.into(), Ordering::Relaxed);
        self.0[1].store(millis, Ordering::Relaxed);
    }

    fn client(&self) -> Client<String> {
        let numbers = Arc::clone(&self.0);
        BoxCloneSyncService::new(tower::service_fn(move |_: Request<String>| {
            let [status, millis] =
                [0, 1].map(|place: usize| numbers[place].load(Ordering::Relaxed));
            async move {
                sleep(Duration::from_millis(millis)).await;
                if status == 0 {
                    pending::<()>().await;
                }
                Ok::<_, BoxError>(Response::builder().status(status as u16).body(String::new())?)
            }
        }))
    }
}

/// Calls ten times in a second, until the test ends. Callers wait this long.
fn load<B: Send + 'static>(client: &Client<B>, patience: Duration) -> JoinHandle<()> {
    let client = client.clone();
    tokio::spawn(async move {
        loop {
            let client = client.clone();
            tokio::spawn(timeout(patience, client.oneshot(Request::new(String::new()))));
            sleep(Duration::from_millis(100)).await;
        }
    })
}

async fn seconds(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

const PATIENT: Duration = Duration::from_secs(60);

fn standard(registry: &Registry, dependency: &Dependency) -> Stacked {
    let stack = Stack::standard_http().name("orders").register(registry);
    BoxCloneSyncService::new(stack.boxed(dependency.client()))
}

/// Returns the only snapshot.
async fn only(admin: &Admin) -> Snapshot {
    let mut snapshots = admin.snapshots().await;
    assert_eq!(snapshots.len(), 1, "{snapshots:?}");
    snapshots.pop().unwrap()
}

/// Checks whose fault it is, and that the sentence has a text.
async fn check(admin: &Admin, whose: Whose, part: &str) {
    let snapshot = only(admin).await;
    let diagnosis = diagnose(&snapshot);
    assert_eq!(diagnosis.whose, whose, "{}\n{snapshot:#?}", diagnosis.sentence);
    assert!(diagnosis.sentence.contains(part), "{part}: {}", diagnosis.sentence);
}

#[tokio::test(start_paused = true)]
async fn a_dependency_that_goes_down_and_comes_back_is_told_from_first_to_last() {
    let (registry, dependency) = (Registry::new(), Dependency::default());
    let admin = Admin::new(&registry);
    let client = standard(&registry, &dependency);
    check(&admin, Whose::Nobody, "No calls yet.").await;

    dependency.set(200, 20);
    let load = load(&client, PATIENT);
    seconds(10).await;
    check(&admin, Whose::Nobody, "Healthy: 10").await;
    check(&admin, Whose::Nobody, " none failed.").await;

    dependency.set(503, 20);
    seconds(2).await;
    check(&admin, Whose::Them, "503 from the dependency: ").await;
    seconds(20).await;
    check(&admin, Whose::Them, "503 from the dependency: ").await;
    check(&admin, Whose::Them, "10 calls/s are rejected. Next probe in ").await;
    let breaker = only(&admin).await.breaker.unwrap();
    assert_eq!((breaker.state.as_deref(), breaker.reason.as_deref()), OPEN);

    dependency.set(200, 20);
    seconds(32).await;
    check(&admin, Whose::Nobody, "Recovered ").await;
    seconds(90).await;
    check(&admin, Whose::Nobody, "Healthy: ").await;
    load.abort();
    seconds(60).await;
    check(&admin, Whose::Nobody, "No calls in 1 s.").await;
}

const OPEN: (Option<&str>, Option<&str>) = (Some("open"), Some("failure_rate"));

#[tokio::test(start_paused = true)]
async fn the_first_look_at_an_open_circuit_has_its_reason() {
    let (registry, dependency) = (Registry::new(), Dependency::default());
    let admin = Admin::new(&registry);
    dependency.set(503, 20);
    load(&standard(&registry, &dependency), PATIENT);
    seconds(20).await;
    check(&admin, Whose::Them, "The dependency failed too often. The circuit opened ").await;
}

#[tokio::test(start_paused = true)]
async fn a_dependency_that_hangs_is_at_fault() {
    let (registry, dependency) = (Registry::new(), Dependency::default());
    let admin = Admin::new(&registry);
    dependency.set(200, 20);
    load(&standard(&registry, &dependency), PATIENT);
    seconds(10).await;
    check(&admin, Whose::Nobody, "Healthy: ").await;
    dependency.set(0, 20);
    seconds(4).await;
    check(&admin, Whose::Them, "The dependency does not respond within 2 s: ").await;
}

#[tokio::test(start_paused = true)]
async fn callers_that_all_leave_show_a_dependency_that_hangs() {
    let (registry, dependency) = (Registry::new(), Dependency::default());
    let admin = Admin::new(&registry);
    let client = Stack::new().name("orders").register(&registry).boxed(dependency.client());
    load(&BoxCloneSyncService::new(client), Duration::from_millis(30));
    seconds(10).await;
    check(&admin, Whose::Them, "Callers dropped ").await;
}

#[tokio::test(start_paused = true)]
async fn an_attempt_timeout_that_is_too_short_is_our_fault() {
    let (registry, dependency) = (Registry::new(), Dependency::default());
    let admin = Admin::new(&registry);
    let stack = Stack::standard_http().attempt_timeout(Duration::from_millis(50)).name("orders");
    let client = stack.register(&registry).boxed(dependency.client());
    dependency.set(200, 45);
    load(&BoxCloneSyncService::new(client), PATIENT);
    seconds(10).await;
    check(&admin, Whose::Nobody, "Healthy: ").await;
    dependency.set(200, 55);
    seconds(5).await;
    check(&admin, Whose::Us, "Our attempt timeout of 50 ms is too short").await;
    seconds(20).await;
    check(&admin, Whose::Us, "The circuit opened ").await;
}

#[tokio::test(start_paused = true)]
async fn a_switch_is_told_with_the_name_of_its_actor() {
    let (registry, dependency) = (Registry::new(), Dependency::default());
    let admin = Admin::new(&registry);
    dependency.set(200, 20);
    load(&standard(&registry, &dependency), PATIENT);
    let turn = |control| registry.control(Some("orders"), "orders", control, "ada");
    assert_eq!(turn(Control::ForceOpen(None)), 1);
    seconds(5).await;
    check(&admin, Whose::Hand, "Forced open by ada 6 s ago: ").await;
    check(&admin, Whose::Hand, "It stays open until somebody closes it.").await;
    assert_eq!(turn(Control::ForceOpen(Some(Duration::from_secs(120)))), 1);
    check(&admin, Whose::Hand, "It ends by itself in 2 min.").await;
    assert_eq!(turn(Control::Disable), 1);
    seconds(15).await;
    check(&admin, Whose::Hand, "The circuit breaker was disabled by ada 16 s ago.").await;
    assert_eq!(turn(Control::Close), 1);
    seconds(15).await;
    check(&admin, Whose::Nobody, "Recovered ").await;
}

#[tokio::test(start_paused = true)]
async fn a_dependency_that_was_switched_off_is_told_with_the_name_of_its_actor() {
    let registry = Registry::new();
    let admin = Admin::new(&registry);
    let down = tower::service_fn(|_: u64| async { Err::<u64, BoxError>("down".into()) });
    let stack = Stack::new().fallback(FallbackLayer::value(7)).name("orders").register(&registry);
    let client = stack.boxed(down);
    let call = || async { assert_eq!(client.clone().oneshot(1).await.unwrap(), 7) };
    call().await;
    let turn = |control| registry.control(Some("orders"), "orders", control, "ada");
    assert_eq!(turn(Control::SwitchOff), 1);
    call().await;
    check(&admin, Whose::Hand, "Switched off by ada: ").await;
    assert_eq!(turn(Control::SwitchOn), 1);
}

#[tokio::test(start_paused = true)]
async fn of_two_stacks_with_equal_names_the_ill_one_is_told() {
    let (registry, well, ill) = (Registry::new(), Dependency::default(), Dependency::default());
    let admin = Admin::new(&registry);
    for dependency in [&well, &ill] {
        dependency.set(200, 20);
        load(&standard(&registry, dependency), PATIENT);
    }
    seconds(600).await;
    ill.set(503, 20);
    seconds(10).await;
    check(&admin, Whose::Them, " s ago. 10 calls/s are rejected.").await;
}

#[tokio::test(start_paused = true)]
async fn a_key_that_was_forced_open_and_forgotten_is_a_hand() {
    let registry = Registry::new();
    let admin = Admin::new(&registry);
    let breaker = CircuitBreakerLayer::builder().keyed_fn(|customer: &String| customer.clone());
    let breaker = breaker.build().unwrap();
    let well = tower::service_fn(|_: String| async { Ok::<(), BoxError>(()) });
    let client = Stack::new().circuit_breaker(breaker.clone()).name("orders").register(&registry);
    let client = client.boxed(well);
    for customer in ["ada", "bob"] {
        client.clone().oneshot(customer.to_owned()).await.unwrap();
    }
    breaker.handle("bob").unwrap().force_open();
    check(&admin, Whose::Hand, "forced open by hand for 1 of 2 keys").await;
}

#[tokio::test(start_paused = true)]
async fn an_actor_is_told_even_after_many_layers_that_came_and_went() {
    let (registry, dependency) = (Registry::new(), Dependency::default());
    let admin = Admin::new(&registry);
    let force_open = |name: &str, actor| {
        let changed = registry.control(Some(name), name, Control::ForceOpen(None), actor);
        assert_eq!(changed, 1);
    };
    for name in (0..300).map(|number| number.to_string()) {
        let stack = Stack::standard_http().name(name.clone()).register(&registry);
        let _gone = stack.boxed(dependency.client());
        force_open(&name, "bob");
    }
    let _client = standard(&registry, &dependency);
    force_open("orders", "ada");
    check(&admin, Whose::Hand, "Forced open by ada 1 s ago: ").await;
}

#[tokio::test(start_paused = true)]
async fn neither_keys_nor_texts_of_errors_are_shown() {
    let registry = Registry::new();
    let admin = Admin::new(&registry);
    let breaker = CircuitBreakerLayer::builder()
        .keyed_fn(|customer: &&'static str| *customer)
        .describe_fn(|customer| format!("customer {customer}"))
        .build()
        .unwrap();
    let fails =
        tower::service_fn(|_: &'static str| async { Err::<(), BoxError>("password 1234".into()) });
    let client = Stack::new().circuit_breaker(breaker).name("orders").register(&registry);
    let client = client.boxed(fails);
    for _ in 0..100 {
        _ = client.clone().oneshot("4711").await;
    }
    let snapshot = only(&admin).await;
    assert!(diagnose(&snapshot).sentence.contains("for 1 of 1 key."), "{snapshot:#?}");
    for path in ["/state.json", "/metrics"] {
        let request = Request::get(path).header("host", "localhost").body(String::new()).unwrap();
        let response = admin.clone().oneshot(request).await.unwrap();
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
        let text = String::from_utf8(body.to_bytes().to_vec()).unwrap();
        assert!(text.contains("orders"));
        assert!(!text.contains("4711") && !text.contains("1234"), "{path}: {text}");
        assert!(path == "/metrics" || text.contains("circuit opened"), "{text}");
    }
}
