//! A request that was given back is nobody's failure while others have responses. In silence, the
//! dependency has failed.
//!
//! Each scene is a dependency and its callers, on a paused clock.

#[path = "support/gives_back.rs"]
mod gives_back;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use buttress::{
    Classify, Error, Outcome, RetryHint,
    circuit_breaker::{CircuitBreakerBuilder, CircuitBreakerHandle, CircuitBreakerLayer, State},
    retry::{Backoff, Budget, Jitter, Replay, ReplayClones, RetryBuilder, RetryLayer, replay_fn},
};
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, Service, ServiceExt, service_fn, util::BoxCloneSyncService};

use self::gives_back::GivesBack;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const WINDOW: Duration = Duration::from_secs(10);

type Failure = Error<&'static str>;
type Client = BoxCloneSyncService<u32, (), Failure>;

const BACK: [&str; 2] = ["unsent", "refused"];

/// Returns a dependency that responds after 20 ms, unless `error` has an error for a call.
///
/// `error` gets the number of the call, and the time since the first one.
fn dependency(
    error: impl Fn(u32, Duration) -> Option<&'static str> + Clone + Send + Sync + 'static,
) -> Client {
    let began = Arc::new(OnceLock::new());
    let calls = Arc::new(AtomicU32::new(0));
    BoxCloneSyncService::new(service_fn(move |_| {
        let began = began.get_or_init(Instant::now);
        let error = error(calls.fetch_add(1, Ordering::Relaxed), began.elapsed());
        async move {
            match error {
                Some(error) => Err(Error::Service(error)),
                None => {
                    sleep(Duration::from_millis(20)).await;
                    Ok(())
                }
            }
        }
    }))
}

fn retry<P>(replay: P) -> RetryBuilder<P> {
    let backoff = Backoff::constant(SECOND / 10).jitter(Jitter::None).build().unwrap();
    RetryLayer::builder(replay).backoff(backoff).without_budget()
}

fn retried<P>(retry: RetryBuilder<P>, inner: Client) -> Client
where
    P: Replay<u32> + Send + Sync + 'static,
{
    BoxCloneSyncService::new(retry.classify(GivesBack).build().unwrap().layer(inner))
}

fn guarded(breaker: &CircuitBreakerBuilder, inner: Client) -> (Client, CircuitBreakerHandle) {
    let breaker = breaker.clone().classify(GivesBack).build().unwrap();
    let handle = breaker.handle();
    (BoxCloneSyncService::new(breaker.layer(inner)), handle)
}

/// The ways in which a breaker stands in a stack.
fn stacks(
    breaker: &CircuitBreakerBuilder,
    inner: impl Fn() -> Client,
) -> [(&'static str, Client, CircuitBreakerHandle); 5] {
    let guarded = |inner| guarded(breaker, inner);
    let beneath = |retry| {
        let (client, handle) = guarded(inner());
        (retried(retry, client), handle)
    };
    let (usual, a) = beneath(retry(ReplayClones));
    let (without_retries, b) = beneath(retry(ReplayClones).retries(0));
    let (client, c) = guarded(inner());
    let streaming = retried(retry(replay_fn(|_: &u32| None)), client);
    let (alone, d) = guarded(inner());
    let (outside, e) = guarded(retried(retry(ReplayClones), inner()));
    [
        ("beneath the retry", usual, a),
        ("without retries", without_retries, b),
        ("a body that cannot be copied", streaming, c),
        ("the breaker alone", alone, d),
        ("outside the retry", outside, e),
    ]
}

/// Breakers over windows of both kinds, and with the conditions that open the soonest.
fn sensitive() -> [(&'static str, CircuitBreakerBuilder); 4] {
    let any = CircuitBreakerLayer::builder;
    [
        ("the default", any()),
        ("20 calls", any().count_window(20)),
        ("a row of five", any().consecutive_failures(5)),
        ("no cut counts", any().abandoned_after(Duration::MAX)),
    ]
}

/// Makes three calls a second for so long.
async fn call(client: &Client, time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        tokio::spawn(client.clone().oneshot(0));
        sleep(SECOND / 3).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_gives_back_each_request_opens_its_breaker() {
    for back in BACK {
        for (name, breaker) in sensitive() {
            for (stack, client, handle) in stacks(&breaker, || dependency(move |_, _| Some(back))) {
                let began = Instant::now();
                let mut watch = handle.watch();
                let opens = async {
                    tokio::select! {
                        state = watch.changed() => assert_eq!(state, State::Open),
                        () = call(&client, MINUTE) => {}
                    }
                };
                opens.await;
                let opened = began.elapsed();
                let what = format!("{back}, {name}, {stack}: {opened:?}");
                assert!(opened >= WINDOW && opened <= 2 * WINDOW, "{what}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_given_back_counts_nothing_while_others_have_responses() {
    type Error = fn(u32, Duration) -> Option<&'static str>;
    let hosts: [(&str, Error); 3] = [
        ("nine in ten are given back", |call, _| (call % 10 > 0).then_some("refused")),
        ("a restart takes 9 s", |_, at| (at.as_secs() % 60 >= 51).then_some("unsent")),
        ("both proofs, in turn", |call, at| {
            (at.as_secs() % 9 > 0).then_some(BACK[call as usize % 2])
        }),
    ];
    for (host, error) in hosts {
        for (name, breaker) in sensitive() {
            for (stack, client, handle) in stacks(&breaker, || dependency(error)) {
                call(&client, 5 * MINUTE - 2 * WINDOW).await;
                let snapshot = handle.snapshot();
                let what = format!("{host}, {name}, {stack}");
                assert_eq!((snapshot.opened(), snapshot.failures()), (0, 0), "{what}");
                assert!(snapshot.calls() > 0, "{what}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_half_open_breaker_over_a_host_that_gives_back_each_request_opens_again() {
    for back in BACK {
        let breaker = CircuitBreakerLayer::builder().open_jitter(0.0);
        // A breaker whose open time is shorter than the silence too.
        for open_for in [SECOND, WINDOW * 3] {
            let breaker = breaker.clone().open_for(open_for).open_growth(1.0);
            for (stack, client, handle) in stacks(&breaker, || dependency(move |_, _| Some(back))) {
                call(&client, 2 * WINDOW + open_for + 2 * WINDOW).await;
                let what = format!("{back}, {open_for:?}, {stack}: {:?}", handle.snapshot());
                assert!(handle.snapshot().opened() >= 2, "{what}");
                assert_eq!(handle.snapshot().closed(), 0, "{what}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_given_back_releases_its_slot_and_a_host_that_recovers_closes_its_breaker()
{
    for back in BACK {
        let breaker = CircuitBreakerLayer::builder();
        let ill = || dependency(move |_, at| (at < MINUTE).then_some(back));
        for (stack, client, handle) in stacks(&breaker, ill) {
            let mut watch = handle.watch();
            call(&client, MINUTE / 2).await;
            assert_eq!(watch.current(), State::Open, "{stack}");
            let half_open = async { while watch.changed().await != State::HalfOpen {} };
            tokio::select! {
                () = half_open => {}
                () = call(&client, MINUTE) => panic!("{back}, {stack}: it stays open"),
            }
            // More calls than probes, and the silence has not lasted.
            for _ in 0..20 {
                let _ = client.clone().oneshot(0).await;
            }
            assert_eq!((handle.state(), handle.snapshot().probes()), (State::HalfOpen, 0));
            call(&client, 3 * MINUTE).await;
            assert_eq!(handle.state(), State::Closed, "{back}, {stack}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_given_back_counts_for_a_throttle_only_in_silence() {
    for back in BACK {
        for replayable in [true, false] {
            let budget = Budget::throttle().max_tokens(100).build().unwrap();
            let replay = replay_fn(move |_: &u32| replayable.then_some(0));
            let layer = || retry(replay).budget(budget.clone());

            let mixed = move |call: u32, _| (call % 10 > 0).then_some(back);
            let client = retried(layer(), dependency(mixed));
            call(&client, MINUTE).await;
            // The first resend is free. A retry after it takes a token.
            assert_eq!(budget.balance() < 100.0, replayable, "{back}");

            let budget = Budget::throttle().max_tokens(100).build().unwrap();
            let layer = || RetryLayer::builder(replay).retries(0).budget(budget.clone());
            let client = retried(layer(), dependency(move |_, _| Some(back)));
            call(&client, WINDOW / 2).await;
            assert_eq!(budget.balance(), 100.0, "{back}, {replayable}");
            call(&client, MINUTE).await;
            assert!(budget.balance() <= 50.0, "{back}, {replayable}: {}", budget.balance());
        }
    }
}

/// The hint of a response says nothing about the silence. A response ends it.
#[tokio::test(start_paused = true)]
async fn an_ignored_response_is_heard_whatever_its_hint() {
    #[derive(Clone)]
    struct Ignores;
    impl Classify<(), Failure> for Ignores {
        fn classify(&self, _: Result<&(), &Failure>) -> Outcome {
            Outcome::Ignored
        }
        fn hint(&self, _: Result<&(), &Failure>) -> RetryHint {
            RetryHint::Unprocessed
        }
    }
    let breaker = CircuitBreakerLayer::builder().consecutive_failures(1).classify(Ignores);
    let breaker = breaker.build().unwrap();
    let handle = breaker.handle();
    let mut client = breaker.layer(dependency(|call, _| (call % 2 > 0).then_some("unsent")));
    let calls = async {
        loop {
            let _ = client.ready().await.unwrap().call(0).await;
            sleep(SECOND / 3).await;
        }
    };
    timeout(MINUTE, calls).await.unwrap_err();
    assert_eq!(handle.state(), State::Closed);
}
