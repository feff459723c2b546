//! The page in Chromium, during outages.
//!
//! The pictures are in the folder for temporary files of the test. With `BLESS=1`, a picture of the
//! upper part of the page replaces `docs/admin.png`.

mod driver;

use std::{
    convert::Infallible,
    env, fs,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use axum::Router;
use buttress::{
    BoxError, Stack,
    bulkhead::BulkheadLayer,
    cache::CacheLayer,
    chaos::ChaosLayer,
    endpoints::Endpoints,
    fallback::FallbackLayer,
    telemetry::{Control, Registry},
};
use buttress_admin::{Actor, Admin};
use driver::Browser;
use http::{Request, Response, StatusCode};
use serde_json::Value;
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    time::{interval, sleep},
};
use tower::{Layer, Service, ServiceExt, service_fn, util::BoxCloneSyncService};

type Client = BoxCloneSyncService<Request<String>, Response<String>, Infallible>;

/// A name that would run a script if it became a part of the page.
const HOSTILE: &str = "<img src=x onerror=\"document.title='taken'; fetch('//evil.example')\">";

/// Sends `rate` calls in a second, and waits for none.
fn load<S>(client: S, rate: u64)
where
    S: Service<Request<String>, Future: Send, Response: Send, Error: Send> + Clone + Send + 'static,
{
    tokio::spawn(async move {
        let mut ticks = interval(Duration::from_millis(1_000 / rate));
        loop {
            ticks.tick().await;
            let client = client.clone();
            tokio::spawn(async move { client.oneshot(Request::new(String::new())).await });
        }
    });
}

/// A client whose service takes this long, and which responds with 503 while it is down.
fn takes(millis: u64, is_down: &Arc<AtomicBool>) -> Client {
    let is_down = Arc::clone(is_down);
    BoxCloneSyncService::new(service_fn(move |_: Request<String>| {
        let is_down = is_down.load(Ordering::Relaxed);
        async move {
            sleep(Duration::from_millis(millis)).await;
            let mut response = Response::new(String::new());
            if is_down {
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            }
            Ok(response)
        }
    }))
}

/// A process that calls six dependencies, and one with another name.
///
/// `payments` is overloaded, `ledger` was opened by hand, and `recommendations` was switched off.
/// One of the instances of `inventory` always fails. `orders` and `rates` can go down.
struct Shop {
    registry: Registry,
    runtime: Runtime,
    address: SocketAddr,
    is_down: Arc<AtomicBool>,
}

/// The card of the instances of `inventory`.
const INSTANCES: &str = "inventory instances";

impl Shop {
    fn open(more: Option<&str>, admin: impl FnOnce(Admin) -> Admin) -> Self {
        let runtime = Runtime::new().unwrap();
        let is_down = Arc::new(AtomicBool::new(false));
        let registry = Registry::new();
        let address = runtime.block_on(async {
            let admin = admin(Admin::new(&registry));
            let well = Arc::default();
            let standard =
                |name: &str| Stack::standard_http().name(name.to_owned()).register(&registry);
            let instance = |id: &u64| takes(4, &Arc::new(AtomicBool::new(*id == 3)));
            let instances = Endpoints::builder([1, 2, 3], instance)
                .name(INSTANCES)
                // It is out until the end of the test.
                .eject_for(Duration::from_secs(300))
                .build()
                .unwrap()
                .register(&registry);
            load(standard("inventory").layer(instances), 40);
            load(standard("ledger").service(takes(9, &well)), 10);
            load(standard("orders").service(takes(20, &is_down)), 50);
            let older = CacheLayer::http().ttl(Duration::from_millis(250));
            let older = older.if_error(Duration::from_secs(3_600)).build().unwrap();
            load(standard("rates").cache(older).service(takes(7, &is_down)), 20);
            let none = FallbackLayer::http(Response::new(""));
            load(standard("recommendations").fallback(none).service(takes(15, &well)), 25);
            if let Some(more) = more {
                load(standard(more).service(takes(2, &well)), 5);
            }
            let few = BulkheadLayer::builder().max_concurrent(4).build().unwrap();
            load(standard("payments").bulkhead(few).service(takes(200, &well)), 50);
            let force = Control::ForceOpen(Some(Duration::from_secs(3_600)));
            for (name, control) in [("ledger", force), ("recommendations", Control::SwitchOff)] {
                assert_eq!(registry.control(Some(name), name, control, "ada"), 1);
            }
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let router = Router::new().nest_service("/buttress", admin);
            tokio::spawn(async { axum::serve(listener, router).await });
            address
        });
        Self { registry, runtime, address, is_down }
    }

    fn url(&self) -> String {
        format!("http://{}/buttress", self.address)
    }
}

/// A script that returns the gaps between the cards of a column that are too small or too large.
const GAPS: &str = "
    const boxes = [...document.querySelectorAll('section')].map(it => it.getBoundingClientRect());
    return boxes.map(box => {
        const above = boxes.filter(it => it.left === box.left && it.top < box.top);
        return box.top - Math.max(...above.map(it => it.bottom));
    }).filter(gap => gap < 17 || (gap > 25 && gap < Infinity)).join();
";

/// Returns a script that finds the card of a dependency.
fn card(name: &str) -> String {
    let name = Value::from(name);
    let is_it = format!("it => it.querySelector('h2').textContent === {name}");
    format!("[...document.querySelectorAll('section')].find({is_it})")
}

fn text(browser: &Browser, of: &str, selector: &str) -> String {
    let script = format!("return {}.querySelector('{selector}').textContent", card(of));
    browser.run(&script).as_str().unwrap().to_owned()
}

/// Keeps a picture of the page.
fn keep(browser: &Browser, width: u32, name: &str) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let picture = browser.picture(width, "html");
    fs::write(folder.join(format!("{name}-{width}.png")), picture).unwrap();
}

/// Checks that nothing on the page went wrong, and that it asked only its own server.
fn check(browser: &Browser, shop: &Shop) {
    assert_eq!(browser.console(), [""; 0]);
    let numbers = browser.run("return document.body.innerText");
    assert!(!numbers.as_str().unwrap().contains("NaN"), "{numbers}");
    let own = shop.url();
    let asked = browser.requests(&format!("http://{}", shop.address));
    assert!(asked.len() > 1, "{asked:?}");
    // The icon is in the page itself.
    let is_foreign = |url: &String| !url.starts_with(&own) && !url.starts_with("data:");
    let foreign: Vec<_> = asked.into_iter().filter(is_foreign).collect();
    assert_eq!(foreign, [""; 0]);
}

/// Waits until the sentence of a dependency begins with a text.
fn await_sentence(browser: &Browser, name: &str, begin: &str) {
    let sentence = format!("{}?.querySelector('.sentence').textContent", card(name));
    browser.wait(begin, &format!("return ({sentence} ?? '').startsWith({})", Value::from(begin)));
}

#[test]
fn the_page_says_whose_fault_an_outage_is_at_each_width() {
    let browser = Browser::start();
    let is_blessed = env::var_os("BLESS").is_some();
    for width in [1_280, 400] {
        let shop = Shop::open(None, |admin| admin);
        browser.resize(width, 900);
        browser.open(&shop.url());
        await_sentence(&browser, "inventory", "Healthy: ");
        await_sentence(&browser, "payments", "Our bulkhead is full");
        await_sentence(&browser, "ledger", "Forced open by ada ");
        await_sentence(&browser, "recommendations", "Switched off by ada");
        await_sentence(&browser, INSTANCES, "1 of 3 endpoints is out: ");
        await_sentence(&browser, "rates", "Healthy: ");
        if is_blessed && width > 1_000 {
            // The picture shows the time before, and the open circuit.
            thread::sleep(Duration::from_secs(30));
        }
        shop.is_down.store(true, Ordering::Relaxed);
        await_sentence(&browser, "orders", "503 from the dependency: ");
        await_sentence(&browser, "rates", "The dependency fails: ");
        for (name, badge) in [
            ("inventory", "✓ Healthy"),
            ("payments", "◆ Our side"),
            ("ledger", "■ By hand"),
            ("orders", "▲ Their side"),
            ("rates", "▲ Their side"),
            ("recommendations", "■ By hand"),
            (INSTANCES, "▲ Their side"),
        ] {
            assert_eq!(text(&browser, name, ".badge"), badge);
        }
        let title = browser.run("return document.getElementById('title').textContent");
        assert_eq!(title, "6 of 7 dependencies need attention");
        // The ill ones come first.
        let last = "return document.querySelector('section:last-child .badge').textContent";
        assert_eq!(browser.run(last), "✓ Healthy");
        let [wide, fits] = ["scrollWidth", "clientWidth"]
            .map(|it| browser.run(&format!("return document.documentElement.{it}")));
        assert_eq!(wide, fits, "the page must not be wider than the screen");
        assert_eq!(browser.run(GAPS), "", "the cards of a column must follow each other");
        // The chart says the numbers under the pointer.
        let script = format!(
            "const canvas = {}.querySelector('canvas'), box = canvas.getBoundingClientRect();
            const clientX = box.right - 9, clientY = box.top + 9;
            canvas.dispatchEvent(new PointerEvent('pointermove', {{ clientX, clientY }}));
            return canvas.closest('section').querySelector('.axis').textContent;",
            card("orders")
        );
        let under = browser.run(&script);
        assert!(under.as_str().unwrap().contains("/s "), "{under}");
        browser.run(
            "document.querySelectorAll('canvas')
                .forEach(it => it.dispatchEvent(new PointerEvent('pointerleave')))",
        );
        // Nobody may change anything.
        assert_eq!(browser.run("return document.querySelectorAll('button').length"), 0);
        if is_blessed && width > 1_000 {
            thread::sleep(Duration::from_secs(12));
        }
        if is_blessed && width > 1_000 {
            let picture = browser.picture(width, "#events li:nth-child(6)");
            assert!(picture.len() < 350_000, "{}", picture.len());
            let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/admin.png");
            fs::write(docs, picture).unwrap();
        }
        keep(&browser, width, "outage");
        check(&browser, &shop);
        // A script of the page may not either.
        let change = r#"{"stack":"orders","layer":"orders","do":"force_open","seconds":9}"#;
        let headers = "{ 'content-type': 'application/json' }";
        let send = format!("{{ method: 'POST', headers: {headers}, body: '{change}' }}");
        let status = format!("return fetch('buttress/control', {send}).then(it => it.status)");
        assert_eq!(browser.run(&status), 403);
        // It is a message on the console.
        browser.console();
        drop(shop.runtime);
    }
}

/// Clicks a button of a card, and confirms what it asks.
fn turn(browser: &Browser, name: &str, button: &str) {
    for text in [button, "Do it"] {
        let buttons = format!("[...{}.querySelectorAll('button')]", card(name));
        let found = format!("{buttons}.find(it => it.textContent === {})", Value::from(text));
        browser.wait(text, &format!("return !!{found}"));
        browser.click(&format!("return {found}"));
    }
}

#[test]
fn a_person_who_may_turn_switches_can_do_so_on_the_page() {
    let shop = Shop::open(None, |admin| admin.allow_changes(|_| Some(Actor::new("grace"))));
    let browser = Browser::start();
    browser.resize(400, 900);
    browser.open(&shop.url());
    await_sentence(&browser, "inventory", "Healthy: ");
    turn(&browser, "inventory", "Force circuit open …");
    await_sentence(&browser, "inventory", "Forced open by grace ");
    assert_eq!(text(&browser, "inventory", ".badge"), "■ By hand");
    let ends = text(&browser, "inventory", ".sentence");
    assert!(ends.contains("It ends by itself in 5 min."), "{ends}");
    keep(&browser, 400, "switch");
    turn(&browser, "inventory", "Close circuit …");
    await_sentence(&browser, "inventory", "Recovered ");
    turn(&browser, "ledger", "Reset circuit …");
    await_sentence(&browser, "ledger", "Recovered ");
    turn(&browser, "payments", "Change limit …");
    let answer = format!("return /Changed/.test({}.textContent)", card("payments"));
    browser.wait("the change", &answer);
    check(&browser, &shop);
    drop(shop.runtime);
}

#[test]
fn chaos_that_is_armed_can_be_disarmed_on_the_page() {
    let shop = Shop::open(None, |admin| admin.allow_changes(|_| Some(Actor::new("grace"))));
    let chaos = ChaosLayer::builder().name("trial").hangs(1.0).build().unwrap();
    let handle = chaos.register(&shop.registry).handle();
    let browser = Browser::start();
    browser.resize(400, 900);
    browser.open(&shop.url());
    await_sentence(&browser, "trial", "Nothing was rejected ");
    handle.arm_for(Duration::from_secs(600)).unwrap();
    await_sentence(&browser, "trial", "Chaos is armed: ");
    assert_eq!(text(&browser, "trial", ".badge"), "■ By hand");
    turn(&browser, "trial", "Disarm chaos …");
    await_sentence(&browser, "trial", "Nothing was rejected ");
    assert!(!handle.is_armed());
    check(&browser, &shop);
    drop(shop.runtime);
}

#[test]
fn endpoints_and_a_cache_have_cards() {
    let shop = Shop::open(None, |admin| admin.allow_changes(|_| Some(Actor::new("grace"))));
    let client = |_: &&str| service_fn(|_: u64| async { Ok::<_, BoxError>(7) });
    let fleet = Endpoints::builder(["a", "b"], client).name("fleet").build().unwrap();
    let fleet = fleet.register(&shop.registry).handle();
    let cache = CacheLayer::by_fn(|id: &u64| Some(*id)).name("titles").build().unwrap();
    let cache = cache.register(&shop.registry);
    let titles = cache.layer(service_fn(|id: u64| async move { Ok::<_, BoxError>(id) }));
    let call = || shop.runtime.block_on(async { titles.clone().oneshot(7).await.unwrap() });
    let browser = Browser::start();
    browser.resize(400, 900);
    browser.open(&shop.url());
    await_sentence(&browser, "fleet", "Nothing was rejected ");
    fleet.drain(&"a");
    fleet.drain(&"b");
    await_sentence(&browser, "fleet", "No call reaches the dependency: all of 2 endpoints ");
    assert!(text(&browser, "fleet", "dl").contains("0 of 2 usable 2 drained"));
    assert_eq!((call(), call(), cache.handle().counts().entries), (7, 7, 1));
    turn(&browser, "titles", "Forget entries …");
    let done = format!("return {}.textContent.includes('Forgotten.')", card("titles"));
    browser.wait("the entries to be forgotten", &done);
    assert_eq!(cache.handle().counts().entries, 0);
    check(&browser, &shop);
    drop(shop.runtime);
}

#[test]
fn a_rejection_that_a_cache_replaces_is_no_error_of_a_caller() {
    let shop = Shop::open(None, |admin| admin);
    let browser = Browser::start();
    browser.open(&shop.url());
    await_sentence(&browser, "rates", "Healthy: ");
    let force = |name| shop.registry.control(Some(name), name, Control::ForceOpen(None), "ada");
    assert_eq!((force("rates"), force("orders")), (1, 1));
    for (name, is_replaced) in [("rates", true), ("orders", false)] {
        let sentence = format!("{}.querySelector('.sentence').textContent", card(name));
        browser.wait("a rejection", &format!("return / rejected\\./.test({sentence})"));
        assert_ne!(text(&browser, name, "dl").contains("Errors of callers"), is_replaced, "{name}");
    }
    check(&browser, &shop);
    drop(shop.runtime);
}

#[test]
fn a_hostile_name_is_text() {
    let shop = Shop::open(Some(HOSTILE), |admin| admin);
    let browser = Browser::start();
    browser.open(&shop.url());
    browser.wait("the card", &format!("return !!{}", card(HOSTILE)));
    assert_eq!(browser.run("return document.querySelectorAll('img').length"), 0);
    assert!(browser.run("return document.title").as_str().unwrap().contains("buttress"));
    check(&browser, &shop);
    drop(shop.runtime);
}

#[test]
fn a_hostile_actor_is_text_and_keeps_each_character() {
    const ACTOR: &str = "ada_l <img src=x onerror=\"document.title='taken'\">";
    let shop = Shop::open(None, |admin| admin.allow_changes(|_| Some(Actor::new(ACTOR))));
    let browser = Browser::start();
    browser.open(&shop.url());
    browser.wait("the card", &format!("return !!{}", card("inventory")));
    turn(&browser, "inventory", "Force circuit open …");
    await_sentence(&browser, "inventory", &format!("Forced open by {ACTOR} "));
    let event = Value::from(format!("force open for 5 min by {ACTOR}"));
    let events = "[...document.querySelectorAll('#events small')].map(it => it.textContent)";
    assert_eq!(browser.run(&format!("return {events}.filter(it => it === {event}).length")), 1);
    assert_eq!(browser.run("return document.querySelectorAll('img').length"), 0);
    assert!(browser.run("return document.title").as_str().unwrap().contains("buttress"));
    check(&browser, &shop);
    drop(shop.runtime);
}

#[test]
fn a_server_that_ends_makes_the_numbers_old() {
    let shop = Shop::open(None, |admin| admin);
    let browser = Browser::start();
    browser.open(&shop.url());
    browser.wait("the card", &format!("return !!{}", card("payments")));
    drop(shop.runtime);
    let live = "document.getElementById('live').textContent";
    browser.wait("the warning", &format!("return /does not respond/.test({live})"));
}
