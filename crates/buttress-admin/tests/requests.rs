//! Requests of friends and strangers.

use std::{
    convert::Infallible,
    future::pending,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use buttress::{
    Stack,
    bulkhead::BulkheadLayer,
    chaos::ChaosLayer,
    retry::ReplayClones,
    telemetry::{Event, Observer, Registry, Source},
};
use buttress_admin::{Actor, Admin, AdminBody};
use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full};
use tokio::time::Instant;
use tower::ServiceExt;

type Served = (StatusCode, HeaderMap, String);

async fn send<B>(admin: &Admin, request: Request<B>) -> Served
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let response: Response<AdminBody> = admin.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (parts.status, parts.headers, String::from_utf8(body.to_vec()).unwrap())
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(path).header("host", "127.0.0.1:9000").body(Empty::new()).unwrap()
}

const FORCE: &str = r#"{"stack":"orders","layer":"orders","do":"force_open","seconds":300}"#;

/// A request for a change that is right in each way.
fn change(body: &str) -> Request<Full<Bytes>> {
    Request::post("/control")
        .header("host", "localhost:9000")
        .header("content-type", "application/json")
        .body(Full::from(body.to_owned()))
        .unwrap()
}

/// Counts the changes.
struct Changes(Arc<AtomicUsize>);

impl Observer for Changes {
    fn on_event(&self, _: Source<'_>, event: &Event<'_>) {
        if matches!(event, Event::Controlled { .. }) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn observed(registry: &Registry) -> Arc<AtomicUsize> {
    let changes = Arc::new(AtomicUsize::new(0));
    registry.observe(Changes(Arc::clone(&changes)));
    changes
}

/// An admin of one stack, which anybody may change.
fn open_admin() -> (Admin, Arc<AtomicUsize>, impl Sized) {
    let registry = Registry::new();
    let changes = observed(&registry);
    let client = tower::service_fn(|_: ()| async { Ok::<_, Infallible>(()) });
    let stack = Stack::standard(ReplayClones).name("orders").register(&registry).service(client);
    (Admin::new(&registry).allow_changes(|_| Some(Actor::new("ada"))), changes, stack)
}

#[tokio::test(start_paused = true)]
async fn each_response_forbids_what_a_page_of_another_site_could_do() {
    let (admin, ..) = open_admin();
    let requests = [
        (get("/"), StatusCode::OK),
        (get("/metrics"), StatusCode::OK),
        (get("/state.json"), StatusCode::OK),
        (get("/nothing"), StatusCode::NOT_FOUND),
        (get("/control"), StatusCode::METHOD_NOT_ALLOWED),
        (Request::get("/").body(Empty::new()).unwrap(), StatusCode::FORBIDDEN),
    ];
    for (request, expected) in requests {
        let path = request.uri().clone();
        let (status, headers, _) = send(&admin, request).await;
        assert_eq!(status, expected, "{path}");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["cache-control"], "no-store");
        assert_eq!(headers["referrer-policy"], "no-referrer");
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert!(headers.keys().all(|name| !name.as_str().starts_with("access-control")));
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_not_on_the_list_is_rejected() {
    let registry = Registry::new();
    let (bare, named) = (Admin::new(&registry), Admin::new(&registry));
    let named = named.hosts(["Admin.Internal:9000", "10.0.0.1"]);
    let allowed = [
        "localhost",
        "LOCALHOST:80",
        "localhost.",
        "127.0.0.1:9000",
        "10.1.2.3",
        "[::1]:9000",
        "[fe80::1]",
    ];
    let rejected = [
        "evil.example",
        "evil.example:9000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.localhost.example",
        "1.2.3",
        "0x7f000001",
        "localhost@evil.example",
        "evil.example@localhost",
        "[::1].evil.example",
        "[localhost]",
        "localhost:x",
        "localhost:80.evil.example",
        "localhost:80:90",
        "[::1]:x",
        "",
        " ",
        "localhost, evil.example",
    ];
    for (host, allowed) in
        allowed.map(|host| (host, true)).into_iter().chain(rejected.map(|host| (host, false)))
    {
        for admin in [&bare, &named] {
            let request = Request::get("/").header("host", host).body(Empty::<Bytes>::new());
            let (status, ..) = send(admin, request.unwrap()).await;
            let expected = if allowed { StatusCode::OK } else { StatusCode::FORBIDDEN };
            assert_eq!(status, expected, "{host:?}");
        }
    }
    for (host, by_bare) in [("admin.internal", 403), ("ADMIN.internal:1", 403), ("10.0.0.1", 200)] {
        let request = || Request::get("/").header("host", host).body(Empty::<Bytes>::new());
        assert_eq!(send(&bare, request().unwrap()).await.0, by_bare);
        assert_eq!(send(&named, request().unwrap()).await.0, 200, "{host}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_name_in_a_request_must_be_on_the_list() {
    let (admin, ..) = open_admin();
    let empty = Empty::<Bytes>::new;
    let over_http2 = |uri: &str| Request::get(uri).version(Version::HTTP_2).body(empty()).unwrap();
    assert_eq!(send(&admin, over_http2("http://localhost:1/")).await.0, 200);
    assert_eq!(send(&admin, over_http2("http://evil.example/")).await.0, 403);
    assert_eq!(send(&admin, over_http2("/")).await.0, 403);
    let both =
        |uri: &str, host: &str| Request::get(uri).header("host", host).body(empty()).unwrap();
    assert_eq!(send(&admin, both("http://127.0.0.1/", "localhost")).await.0, 200);
    assert_eq!(send(&admin, both("http://localhost/", "evil.example")).await.0, 403);
    assert_eq!(send(&admin, both("http://evil.example/", "localhost")).await.0, 403);
    let two = Request::get("/").header("host", "localhost").header("host", "evil.example");
    assert_eq!(send(&admin, two.body(empty()).unwrap()).await.0, 403);
}

#[test]
fn a_setting_that_could_never_match_panics() {
    let panics = |set: fn(Admin) -> Admin| {
        let set = std::panic::AssertUnwindSafe(|| set(Admin::new(&Registry::new())));
        std::panic::catch_unwind(set).is_err()
    };
    assert!(panics(|admin| admin.hosts(["http://admin.internal"])));
    assert!(panics(|admin| admin.hosts(["admin.internal/buttress"])));
    assert!(panics(|admin| admin.hosts([""])));
    assert!(panics(|admin| admin.hosts([":80"])));
    assert!(panics(|admin| admin.hosts(["."])));
    assert!(panics(|admin| admin.hosts(["*.internal"])));
    assert!(panics(|admin| admin.hosts(["admin.internal:http"])));
    assert!(panics(|admin| admin.hosts(["ädmin.internal"])));
    assert!(panics(|admin| admin.hosts(["ada@admin.internal"])));
    assert!(panics(|admin| admin.at("buttress")));
    assert!(!panics(|admin| admin.at("/buttress/").hosts(["admin.internal:80", "[::1]"])));
}

#[tokio::test(start_paused = true)]
async fn a_path_is_found_whether_or_not_a_router_removed_its_beginning() {
    let registry = Registry::new();
    let admin = Admin::new(&registry).at("/buttress");
    for (path, status) in [
        ("/buttress", 200),
        ("/buttress/", 200),
        ("/buttress/metrics", 200),
        ("/buttress/state.json?x=1", 200),
        ("/", 200),
        ("/metrics", 200),
        ("/buttresses", 404),
        ("/buttress/buttress", 404),
        ("/buttress//metrics", 404),
        ("/buttress/metrics/", 404),
        ("/buttress/../metrics", 404),
    ] {
        assert_eq!(send(&admin, get(path)).await.0, status, "{path}");
    }
    // The target of `OPTIONS *` and of `CONNECT` is no path.
    for target in ["*", "localhost:80"] {
        let request = Request::builder().method("OPTIONS").uri(target).header("host", "localhost");
        let (status, ..) = send(&admin, request.body(Empty::<Bytes>::new()).unwrap()).await;
        assert!(status == 404 || status == 405, "{target}: {status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_method_is_told_the_right_ones() {
    let (admin, changes, _stack) = open_admin();
    for (path, allow) in [
        ("/", "GET, HEAD"),
        ("/metrics", "GET, HEAD"),
        ("/state.json", "GET, HEAD"),
        ("/control", "POST"),
    ] {
        for method in [Method::PUT, Method::DELETE, Method::OPTIONS, Method::PATCH, Method::TRACE] {
            let mut request = change(FORCE);
            (*request.method_mut(), *request.uri_mut()) = (method, path.parse().unwrap());
            let (status, headers, _) = send(&admin, request).await;
            assert_eq!(
                (status, headers["allow"].to_str().unwrap()),
                (405.try_into().unwrap(), allow)
            );
        }
    }
    assert_eq!(changes.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_head_request_gets_the_headers_of_the_response_alone() {
    let (admin, ..) = open_admin();
    for path in ["/", "/metrics", "/nothing"] {
        let (status, headers, body) = send(&admin, get(path)).await;
        let mut request = get(path);
        *request.method_mut() = Method::HEAD;
        let (head_status, head_headers, head_body) = send(&admin, request).await;
        assert_eq!((status, headers), (head_status, head_headers), "{path}");
        assert!(!body.is_empty() && head_body.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_changes_a_layer_unless_the_closure_says_so() {
    let registry = Registry::new();
    let changes = observed(&registry);
    let client = tower::service_fn(|_: ()| async { Ok::<_, Infallible>(()) });
    let _stack = Stack::standard(ReplayClones).name("orders").register(&registry).service(client);
    let closed = Admin::new(&registry);
    let asking = closed.clone().allow_changes(|parts| {
        let name = parts.headers.get("x-user")?.to_str().ok()?;
        Some(Actor::new(name))
    });
    for admin in [&closed, &asking] {
        assert_eq!(send(admin, change(FORCE)).await.0, 403);
        let (_, _, state) = send(admin, get("/state.json")).await;
        assert!(state.contains(r#""changes":false"#));
    }
    assert_eq!(changes.load(Ordering::Relaxed), 0);
    let mut state = get("/state.json");
    state.headers_mut().insert("x-user", "ada".parse().unwrap());
    assert!(send(&asking, state).await.2.contains(r#""changes":true"#));
}

#[tokio::test(start_paused = true)]
async fn a_person_without_a_name_changes_nothing() {
    let (admin, changes, _stack) = open_admin();
    for name in ["", " ", "\t\r\n"] {
        // Such as an empty header.
        let admin = admin.clone().allow_changes(move |_| Some(Actor::new(name)));
        assert_eq!(send(&admin, change(FORCE)).await.0, 403, "{name:?}");
        let (_, _, state) = send(&admin, get("/state.json")).await;
        assert!(state.contains(r#""changes":false"#));
    }
    assert_eq!(changes.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_closure_that_panics_changes_nothing() {
    let (admin, changes, _stack) = open_admin();
    let admin = admin.allow_changes(|_| panic!("the closure"));
    assert_eq!(send(&admin, change(FORCE)).await.0, 500);
    assert_eq!(changes.load(Ordering::Relaxed), 0);
    let (status, _, state) = send(&admin, get("/state.json")).await;
    assert!(status == 200 && state.contains(r#""changes":false"#));
}

#[tokio::test(start_paused = true)]
async fn a_page_of_another_site_cannot_send_a_change() {
    let (admin, changes, _stack) = open_admin();
    for content_type in [
        None,
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
        Some("multipart/form-data; boundary=x"),
        Some("application/jsonp"),
        Some("text/plain; application/json"),
        Some(""),
    ] {
        let mut request = change(FORCE);
        request.headers_mut().remove("content-type");
        if let Some(content_type) = content_type {
            request.headers_mut().insert("content-type", content_type.parse().unwrap());
        }
        assert_eq!(send(&admin, request).await.0, 415, "{content_type:?}");
    }
    for site in ["cross-site", "same-site", "x"] {
        let mut request = change(FORCE);
        request.headers_mut().insert("sec-fetch-site", site.parse().unwrap());
        assert_eq!(send(&admin, request).await.0, 403, "{site}");
    }
    assert_eq!(changes.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_not_a_change_changes_nothing() {
    let (admin, changes, _stack) = open_admin();
    for body in [
        "",
        "{}",
        "[]",
        "null",
        r#"{"layer":"orders"}"#,
        r#"{"layer":"orders","do":"explode"}"#,
        r#"{"stack":"orders","layer":"orders","do":"force_open"}"#,
        r#"{"stack":"orders","layer":"orders","do":"force_open","seconds":0}"#,
        r#"{"stack":"orders","layer":"orders","do":"force_open","seconds":-1}"#,
        r#"{"stack":"orders","layer":"orders","do":"force_open","seconds":1.5}"#,
        r#"{"stack":"orders","layer":"orders","do":"force_open","seconds":1e999}"#,
        r#"{"stack":"orders","layer":"orders","do":"force_open","seconds":99999999999}"#,
        r#"{"stack":"orders","layer":"orders","do":"force_open","seconds":1,"limit":1}"#,
        r#"{"stack":"orders","layer":"orders","do":"reset","seconds":1}"#,
        r#"{"stack":"orders","layer":"orders","do":"resize","limit":0}"#,
        r#"{"stack":"orders","layer":"orders","do":"resize"}"#,
        r#"{"stack":"orders","layer":"orders","do":"arm"}"#,
        r#"{"stack":"orders","layer":"orders","do":"arm_for","seconds":60}"#,
        r#"{"stack":"orders","layer":"orders","do":"disarm","seconds":60}"#,
        r#"{"stack":"orders","layer":"orders","do":"close","extra":1}"#,
        r#"{"stack":"orders","stack":"x","layer":"orders","do":"close"}"#,
        r#"{"stack":7,"layer":"orders","do":"close"}"#,
        r#"{"stack":"orders","layer":"orders","do":"close"} x"#,
        "\u{1}",
        &"[".repeat(4_000),
    ] {
        assert_eq!(send(&admin, change(body)).await.0, 400, "{body}");
    }
    assert_eq!(changes.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn the_greatest_numbers_are_changes_like_others() {
    let registry = Registry::new();
    let client = tower::service_fn(|_: ()| async { Ok::<_, Infallible>(()) });
    let stack = Stack::standard(ReplayClones).name("orders").register(&registry);
    let stack = stack.bulkhead(BulkheadLayer::builder().build().unwrap()).service(client);
    let admin = Admin::new(&registry).allow_changes(|_| Some(Actor::new("ada")));
    for (body, part) in [
        (r#"{"stack":"orders","layer":"orders","do":"resize","limit":4294967295}"#, "4294967295"),
        (
            r#"{"stack":"orders","layer":"orders","do":"force_open","seconds":4294967295}"#,
            "It ends by itself in 49710 days.",
        ),
    ] {
        let (status, _, text) = send(&admin, change(body)).await;
        assert_eq!((status, &*text), (StatusCode::OK, r#"{"changed":1}"#));
        assert!(stack.clone().oneshot(()).now_or_never().is_some());
        let (_, _, state) = send(&admin, get("/state.json")).await;
        assert!(state.contains(part), "{state}");
        assert_eq!(send(&admin, get("/metrics")).await.0, StatusCode::OK);
    }
}

#[tokio::test(start_paused = true)]
async fn chaos_is_disarmed_by_a_change() {
    let registry = Registry::new();
    let chaos = ChaosLayer::builder().name("orders").hangs(1.0).build().unwrap();
    let chaos = chaos.register(&registry);
    let handle = chaos.handle();
    handle.arm_for(Duration::from_secs(60)).unwrap();
    let admin = Admin::new(&registry).allow_changes(|_| Some(Actor::new("ada")));
    let (_, _, state) = send(&admin, get("/state.json")).await;
    assert!(state.contains("Chaos is armed"), "{state}");
    let (status, _, text) = send(&admin, change(r#"{"layer":"orders","do":"disarm"}"#)).await;
    assert_eq!((status, &*text), (StatusCode::OK, r#"{"changed":1}"#));
    assert!(!handle.is_armed());
    let (_, _, state) = send(&admin, get("/state.json")).await;
    assert!(!state.contains("Chaos is armed") && state.contains("by ada"), "{state}");
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_does_not_exist_is_not_found() {
    let (admin, changes, _stack) = open_admin();
    for body in [
        r#"{"stack":"nothing","layer":"orders","do":"close"}"#,
        r#"{"stack":"orders","layer":"nothing","do":"close"}"#,
        r#"{"layer":"orders","do":"close"}"#,
        r#"{"stack":null,"layer":"orders","do":"close"}"#,
    ] {
        assert_eq!(send(&admin, change(body)).await.0, 404, "{body}");
    }
    assert_eq!(changes.load(Ordering::Relaxed), 0);
}

/// A body of frames with a pause before each.
struct Slow {
    left: usize,
    frame: usize,
    pause: Duration,
    sleep: Pin<Box<tokio::time::Sleep>>,
}

impl Slow {
    fn new(left: usize, frame: usize, pause: Duration) -> Self {
        Self { left, frame, pause, sleep: Box::pin(tokio::time::sleep(pause)) }
    }
}

impl Body for Slow {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if self.sleep.poll_unpin(cx).is_pending() {
            return Poll::Pending;
        }
        let next = Instant::now() + self.pause;
        self.sleep.as_mut().reset(next);
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![b' '; self.frame])))))
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_is_neither_long_nor_slow() {
    let (admin, changes, _stack) = open_admin();
    let began = Instant::now();
    let trickle = Slow::new(usize::MAX, 1, Duration::from_millis(100));
    assert_eq!(send(&admin, change(FORCE).map(|_| trickle)).await.0, 408);
    assert_eq!(began.elapsed(), Duration::from_secs(5));
    let flood = Slow::new(usize::MAX, 1_024, Duration::ZERO);
    assert_eq!(send(&admin, change(FORCE).map(|_| flood)).await.0, 413);
    assert!(began.elapsed() < Duration::from_secs(6));
    assert_eq!(send(&admin, change(&" ".repeat(5_000))).await.0, 413);
    assert_eq!(changes.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn the_body_of_a_stranger_is_not_read() {
    struct Unread;

    impl Body for Unread {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            panic!("read")
        }
    }

    let registry = Registry::new();
    let request = || change(FORCE).map(|_| Unread);
    assert_eq!(send(&Admin::new(&registry), request()).await.0, 403);
    let admin = Admin::new(&registry).allow_changes(|_| None);
    assert_eq!(send(&admin, request()).await.0, 403);
    let (admin, ..) = open_admin();
    let mut request = request();
    request.headers_mut().insert("host", "evil.example".parse().unwrap());
    assert_eq!(send(&admin, request).await.0, 403);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_stops_everything() {
    let (admin, ..) = open_admin();
    let first = admin.clone().oneshot(get("/state.json"));
    assert!(first.now_or_never().is_none(), "it takes two readings");
    let never = change(FORCE).map(|_| Slow::new(1, 1, Duration::MAX / 4));
    assert!(admin.clone().oneshot(never).now_or_never().is_none());
    let elsewhere = pending::<()>();
    drop(elsewhere);
    assert_eq!(send(&admin, get("/state.json")).await.0, 200);
}
