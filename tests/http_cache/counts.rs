//! Each call is counted once.

use proptest::{prelude::*, sample::Index};
use tokio::{runtime::Builder as Runtime, task::yield_now};

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// Sends a request for a path.
    Send(Method, Option<&'static str>, u8),
    /// Lets the server respond in another way from now on.
    Serve(u8),
    /// Drops a call.
    Leave(Index),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let send = |method: Method, header| {
        (0_u8..3).prop_map(move |path| Step::Send(method.clone(), header, path))
    };
    prop_oneof![
        8 => send(Method::GET, None),
        1 => send(Method::GET, Some("cookie")),
        1 => send(Method::POST, None),
        3 => (0_u8..7).prop_map(Step::Serve),
        1 => any::<Index>().prop_map(Step::Leave),
        4 => (1_u64..3_000).prop_map(Step::Wait),
    ]
}

async fn serve(kind: u8) -> Result<Response<Script>, io::Error> {
    match kind {
        0 => Ok(respond(200, &[])),
        1 => {
            sleep(SECOND).await;
            Ok(respond(200, &[]))
        }
        2 => Ok(respond(503, &[])),
        3 => Ok(respond(200, &[("set-cookie", "a=1")])),
        4 => Err(io::ErrorKind::ConnectionReset.into()),
        5 => std::future::pending().await,
        _ => panic!("a service that panics"),
    }
}

async fn settle() {
    for _ in 0..20 {
        yield_now().await;
    }
}

async fn run(steps: Vec<Step>) {
    let kind = Arc::new(AtomicU32::new(0));
    let served = Arc::clone(&kind);
    let service = tower::service_fn(move |_: Request<String>| {
        serve(u8::try_from(served.load(Ordering::Relaxed)).unwrap())
    });
    let cache = CacheLayer::http()
        .ttl(2 * SECOND)
        .while_revalidate(SECOND)
        .if_error(5 * SECOND)
        .patience(SECOND / 2)
        .max_shared_calls(2)
        .build()
        .unwrap();
    let handle = cache.handle();
    let client = Stack::new().cache(cache).total_timeout(5 * SECOND).http().service(service);
    let mut calls = Vec::new();
    for step in steps {
        match step {
            Step::Send(method, header, path) => {
                let mut request = request(method, &[]);
                *request.uri_mut() = format!("http://shop.internal/{path}").parse().unwrap();
                request.headers_mut().extend(header.map(|name| {
                    (HeaderName::from_static(name), header::HeaderValue::from_static("a"))
                }));
                calls.push(tokio::spawn(client.clone().oneshot(request)));
            }
            Step::Serve(other) => kind.store(other.into(), Ordering::Relaxed),
            Step::Leave(index) if !calls.is_empty() => calls[index.index(calls.len())].abort(),
            Step::Leave(_) => {}
            Step::Wait(time) => advance(Duration::from_millis(time)).await,
        }
        settle().await;
    }
    sleep(20 * SECOND).await;
    settle().await;
    let ended = join_all(calls).await.into_iter().filter(Result::is_ok).count();
    let counts = handle.counts();
    let counted = counts.hits + counts.stale + counts.misses + counts.collapsed + counts.bypassed;
    assert_eq!(counted, ended as u64, "{counts:?}");
    assert_eq!(counts.shared_calls, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn each_call_is_counted_once(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = Runtime::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(run(steps));
    }
}
