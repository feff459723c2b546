//! Tests of a breaker for each key.

use std::{
    future::ready,
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use buttress::{
    CarryRejection, Error, Fault, Outcome, Rejection, Stack,
    circuit_breaker::{CircuitBreakerLayer, State},
    testing::{Flaky, Step, assert_future, assert_service, task::SpawnedService},
};
use futures::future::join_all;
use tokio::time::{advance, timeout};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::{
    Answer, DOWN, Inner, LEASE, MS, OPEN_FOR, SECOND, WELL, assert_rejected, is_rejected, ten_calls,
};

/// A request: its key, and the result of the dependency.
type Request = (u64, Answer);

fn dependency()
-> impl Service<Request, Response = &'static str, Error = Error<&'static str>> + Clone {
    service_fn(|(_, answer): Request| ready(answer))
}

fn key(request: &Request) -> u64 {
    request.0
}

#[tokio::test(start_paused = true)]
async fn each_key_has_a_breaker_of_its_own() {
    let layer = ten_calls().name("by host").keyed_fn(key).build().unwrap();
    let service = layer.layer(dependency());
    for _ in 0..10 {
        assert_eq!(service.clone().oneshot((1, DOWN)).await, DOWN);
        assert_eq!(service.clone().oneshot((2, WELL)).await, WELL);
    }
    let rejection = service.clone().oneshot((1, WELL)).await;
    assert_rejected(&rejection);
    let error = rejection.unwrap_err();
    let rejection = error.rejection().unwrap();
    assert_eq!((rejection.name(), rejection.retry_after()), ("by host", Some(OPEN_FOR)));
    assert_eq!(service.clone().oneshot((2, WELL)).await, WELL);
    assert_eq!(service.clone().oneshot((3, WELL)).await, WELL);
    assert_eq!(layer.keys(), 3);

    advance(OPEN_FOR).await;
    for _ in 0..2 {
        assert_eq!(service.clone().oneshot((1, WELL)).await, WELL);
    }
    assert_eq!(layer.handle(&1).unwrap().state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn services_of_one_layer_share_their_keys() {
    let layer = ten_calls().keyed_fn(key).build().unwrap();
    let (first, second) = (layer.layer(dependency()), layer.clone().layer(dependency()));
    for _ in 0..10 {
        let _ = first.clone().oneshot((1, DOWN)).await;
    }
    assert_rejected(&second.oneshot((1, WELL)).await);
}

#[tokio::test(start_paused = true)]
async fn a_handle_is_that_of_its_key() {
    let layer = ten_calls().keyed_fn(key).build().unwrap();
    let service = layer.layer(dependency());
    assert!(layer.handle(&1).is_none(), "a key has no breaker before its first call");
    let _ = service.clone().oneshot((1, WELL)).await;
    let handle = layer.handle(&1).unwrap();
    assert_eq!((handle.snapshot().calls(), layer.handle(&2).is_none()), (1, true));
    handle.force_open();
    assert_rejected(&service.clone().oneshot((1, WELL)).await);
    assert_eq!(service.clone().oneshot((2, WELL)).await, WELL);
    assert_eq!(layer.keys(), 2, "asking for a handle makes no breaker");
}

#[tokio::test(start_paused = true)]
async fn it_is_always_ready_and_waits_for_the_service_in_its_future() {
    let layer = ten_calls().keyed_fn(|_: &()| 0).build().unwrap();
    let flaky = Inner::new([Step::Unready], || WELL);
    let inner = flaky.handle();
    let mut service = SpawnedService::new(layer.layer(flaky));
    assert!(service.poll_ready().is_ready());
    let mut call = service.call(());
    assert!(call.poll().is_pending());
    inner.set_ready();
    assert!(call.is_woken());
    assert_eq!(call.poll(), Poll::Ready(WELL));
    assert_eq!(inner.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn half_open_of_a_key_admits_no_more_probes_than_configured() {
    let layer = ten_calls().keyed_fn(|_: &()| 0).build().unwrap();
    let flaky = Inner::new([], || DOWN);
    let inner = flaky.handle();
    let service = layer.layer(flaky);
    for _ in 0..10 {
        let _ = service.clone().oneshot(()).await;
    }
    advance(OPEN_FOR).await;
    for _ in 0..3 {
        inner.push(Step::RespondAfter(SECOND, WELL));
    }
    join_all((0..500).map(|_| service.clone().oneshot(()))).await;
    assert_eq!(inner.calls(), 13);
    assert_eq!(layer.handle(&0).unwrap().state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_probe_of_a_key_whose_service_is_never_ready_fails() {
    let layer = ten_calls().probes(1).keyed_fn(|_: &()| 0).build().unwrap();
    let flaky = Inner::new([], || DOWN);
    let inner = flaky.handle();
    let service = layer.layer(flaky);
    for _ in 0..10 {
        let _ = service.clone().oneshot(()).await;
    }
    advance(OPEN_FOR).await;
    inner.set_unready();
    assert!(timeout(LEASE * 2, service.clone().oneshot(())).await.is_err());
    assert_eq!(layer.handle(&0).unwrap().snapshot().opened(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_million_one_shot_keys_are_bounded_and_forgotten_with_any_traffic() {
    let layer = CircuitBreakerLayer::builder().keyed_fn(key).build().unwrap();
    let mut service = layer.layer(dependency());
    for key in 1..=1_000_000 {
        let _ = service.ready().await.unwrap().call((key, WELL)).await;
        if key % 1_000 == 0 {
            assert!(layer.keys() <= 10_000, "{} keys", layer.keys());
        }
    }
    assert!(layer.keys() >= 2_500, "{} keys", layer.keys());
    // All calls use one key.
    for _ in 0..25 {
        let _ = service.ready().await.unwrap().call((0, WELL)).await;
        advance(SECOND * 60).await;
    }
    assert_eq!(layer.keys(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_number_of_keys_is_bounded_whatever_the_bound() {
    for most in [2, 3, 10, 1_023, 1_024, 1_025, 5_000] {
        let layer = ten_calls().keyed_fn(key).max_keys(most).build().unwrap();
        let mut service = layer.layer(dependency());
        for key in 0..most as u64 * 5 {
            // Some keys are used again.
            for key in [key, key / 2, key % 7] {
                let _ = service.ready().await.unwrap().call((key, WELL)).await;
                assert!(layer.keys() <= most, "{} keys of {most}", layer.keys());
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_used_is_not_forgotten() {
    let layer = ten_calls().keyed_fn(key).max_keys(100).build().unwrap();
    let mut service = layer.layer(dependency());
    for _ in 0..10 {
        let _ = service.ready().await.unwrap().call((0, DOWN)).await;
    }
    for stranger in 1..10_000 {
        if stranger % 40 == 0 {
            assert_rejected(&service.ready().await.unwrap().call((0, WELL)).await);
        }
        let _ = service.ready().await.unwrap().call((stranger, WELL)).await;
    }
    assert_eq!(layer.handle(&0).unwrap().state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_kept_for_the_idle_time_and_less_than_twice_as_long() {
    let idle = Duration::from_secs(600);
    for first in [0, 1, 300, 599] {
        let layer = ten_calls().keyed_fn(key).build().unwrap();
        let mut service = layer.layer(dependency());
        advance(SECOND * first).await;
        let _ = service.ready().await.unwrap().call((1, WELL)).await;
        // Other calls use the same key again and again.
        for second in 1..=idle.as_secs() * 2 {
            advance(SECOND).await;
            let _ = service.ready().await.unwrap().call((2, WELL)).await;
            if second < idle.as_secs() {
                assert!(layer.handle(&1).is_some(), "forgotten after {second} s");
            }
        }
        assert!(layer.handle(&1).is_none(), "first used at {first} s");
        assert!(layer.handle(&2).is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn results_that_come_in_after_their_key_was_forgotten_are_harmless() {
    let layer = ten_calls().consecutive_failures(1).keyed_fn(|key: &u64| *key).max_keys(2);
    let layer = layer.build().unwrap();
    let flaky: Inner = Flaky::new([], || WELL);
    let inner = flaky.handle();
    let mut service = SpawnedService::new(layer.layer(flaky));
    inner.push(Step::RespondWhenReleased(DOWN));
    inner.push(Step::RespondWhenReleased(DOWN));
    let (mut late, mut dropped) = (service.call(0), service.call(0));
    assert!(late.poll().is_pending() && dropped.poll().is_pending());
    let watched = layer.handle(&0).unwrap();
    for stranger in 1..10 {
        assert_eq!(service.call(stranger).into_inner().await, WELL);
    }
    assert!(layer.handle(&0).is_none());
    advance(SECOND * 3).await;
    inner.release();
    assert_eq!(late.poll(), Poll::Ready(DOWN));
    drop(dropped);
    // The drop counted for the breaker that had admitted the call, and for no other breaker of
    // the key.
    assert_eq!(watched.state(), State::Open);
    assert_eq!(service.call(0).into_inner().await, WELL);
    assert_eq!(layer.handle(&0).unwrap().snapshot().failures(), 0);
    assert!(layer.keys() <= 2);
}

#[tokio::test(start_paused = true)]
async fn a_key_function_may_ask_the_layer() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let layer = ten_calls()
        .keyed_fn(move |request: &Request| {
            noted.lock().unwrap().push(request.0);
            request.0
        })
        .build()
        .unwrap();
    let service = layer.layer(dependency());
    let _ = service.oneshot((7, WELL)).await;
    assert_eq!(*seen.lock().unwrap(), [7], "asked once for each request");
}

#[tokio::test(start_paused = true)]
async fn a_classifier_of_its_own_serves_all_keys_and_wins_over_the_stacks() {
    let all_fail = |_: Result<&&str, &Error<&str>>| Outcome::Failure(Fault::Transient);
    let none_fails = |_: Result<&&str, &Error<&str>>| Outcome::Success;

    let own = ten_calls().classify_fn(all_fail).keyed_fn(key).build().unwrap();
    let stack = Stack::new().classify_fn(none_fails).circuit_breaker(own.clone());
    let service = stack.layer(dependency());
    for _ in 0..10 {
        let _ = service.clone().oneshot((1, WELL)).await;
    }
    assert_eq!(own.handle(&1).unwrap().state(), State::Open);

    let inherits = ten_calls().keyed_fn(key).build().unwrap();
    let stack = Stack::new().classify_fn(all_fail).circuit_breaker(inherits.clone());
    let service = stack.layer(dependency());
    for _ in 0..10 {
        let _ = service.clone().oneshot((1, WELL)).await;
    }
    assert_eq!(inherits.handle(&1).unwrap().state(), State::Open);
    // The breakers are the same without the stack. They then classify only `Ok` and `Err`.
    assert_rejected(&inherits.layer(dependency()).oneshot((1, WELL)).await);
}

#[tokio::test(start_paused = true)]
async fn a_breaker_takes_the_stacks_classifier_unless_it_has_one() {
    let all_fail = |_: Result<&&str, &Error<&str>>| Outcome::Failure(Fault::Transient);
    let none_fails = |_: Result<&&str, &Error<&str>>| Outcome::Success;

    let own = ten_calls().classify_fn(all_fail).build().unwrap();
    let stack = Stack::new().classify_fn(none_fails).circuit_breaker(own.clone());
    let service = stack.layer(dependency());
    for _ in 0..10 {
        let _ = service.clone().oneshot((1, WELL)).await;
    }
    assert_eq!(own.handle().state(), State::Open);

    let inherits = ten_calls().build().unwrap();
    let stack = Stack::new().classify_fn(none_fails).circuit_breaker(inherits.clone());
    let service = stack.layer(dependency());
    for _ in 0..100 {
        let _ = service.clone().oneshot((1, DOWN)).await;
    }
    assert_eq!(inherits.handle().state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn bad_keyed_config_names_knob_value_and_rule() {
    let knob = |error: buttress::ConfigError| {
        assert!(!error.rule().is_empty());
        (error.knob().to_owned(), error.value().to_owned())
    };
    for most in [0, 1] {
        let error = ten_calls().keyed_fn(key).max_keys(most).build().unwrap_err();
        assert_eq!(knob(error), ("max_keys".to_owned(), most.to_string()));
    }
    let error = ten_calls().keyed_fn(key).idle(Duration::ZERO).build().unwrap_err();
    assert_eq!(knob(error), ("idle".to_owned(), "0ns".to_owned()));
    let error = ten_calls().keyed_fn(key).idle(SECOND * 299).build().unwrap_err();
    assert_eq!(knob(error), ("idle".to_owned(), "299s".to_owned()));
    let error = ten_calls().pend().keyed_fn(key).build().unwrap_err();
    assert_eq!(knob(error), ("pend".to_owned(), "true".to_owned()));
    let error = ten_calls().probes(0).keyed_fn(key).build().unwrap_err();
    assert_eq!(knob(error), ("probes".to_owned(), "0".to_owned()));

    let odd = ten_calls().keyed_fn(key).max_keys(usize::MAX).idle(Duration::MAX).build().unwrap();
    let service = odd.layer(dependency());
    advance(SECOND * 86_400 * 365 + MS).await;
    assert_eq!(service.oneshot((1, WELL)).await, WELL);
    assert_eq!(odd.keys(), 1);
}

#[test]
fn keyed_services_are_send_sync_and_clone_and_their_futures_are_send() {
    fn check<S: Service<u64> + Send + Sync + Clone + std::fmt::Debug>(_: &S)
    where
        S::Future: Send,
    {
        assert_service::<S>();
        assert_future::<S::Future>();
    }
    let layer = ten_calls().keyed_fn(|key: &u64| *key).build().unwrap();
    check(&layer.layer(Inner::new([], || WELL)));
}

#[tokio::test(start_paused = true)]
async fn keys_in_use_do_not_turn_each_other_out() {
    for (most, used) in [(2, 2), (100, 50)] {
        let builder = CircuitBreakerLayer::builder().consecutive_failures(3);
        let layer = builder.keyed_fn(key).max_keys(most).build().unwrap();
        let mut service = layer.layer(dependency());
        let mut sent = 0;
        for _ in 0..50 {
            for key in 0..used {
                let result = service.ready().await.unwrap().call((key, DOWN)).await;
                sent += u64::from(!is_rejected(&result));
            }
        }
        assert_eq!(sent, used * 3, "{used} keys of {most}");
    }
}

#[tokio::test(start_paused = true)]
async fn other_keys_do_not_undo_what_an_operator_has_switched() {
    let layer = ten_calls().keyed_fn(key).max_keys(4).build().unwrap();
    let mut service = layer.layer(dependency());
    let _ = service.ready().await.unwrap().call((0, WELL)).await;
    layer.handle(&0).unwrap().force_open();
    for stranger in 1..1_000 {
        let _ = service.ready().await.unwrap().call((stranger, WELL)).await;
    }
    assert_eq!(layer.handle(&0).unwrap().state(), State::ForcedOpen);
    assert_rejected(&service.ready().await.unwrap().call((0, WELL)).await);
}

#[tokio::test(start_paused = true)]
async fn each_key_is_listed_once_and_the_closure_may_call_the_layer() {
    let layer = ten_calls().consecutive_failures(1).keyed_fn(key).max_keys(5_000).build().unwrap();
    let service = layer.layer(dependency());
    for number in 0..1_000 {
        let answer = if number % 10 == 0 { DOWN } else { WELL };
        let _ = service.clone().oneshot((number, answer)).await;
    }
    let (mut all, mut open) = (Vec::new(), 0);
    layer.for_each(|key, handle| {
        all.push(*key);
        assert_eq!(layer.handle(key).unwrap().state(), handle.state());
        if handle.state() == State::Open {
            open += 1;
            handle.close();
        }
        assert_eq!(layer.keys(), 1_000);
    });
    all.sort_unstable();
    assert_eq!((all, open), ((0..1_000).collect::<Vec<_>>(), 100));
    assert_eq!(service.oneshot((10, WELL)).await, WELL);

    // Listing is no use of a key, and an unused key is not listed.
    advance(601 * SECOND).await;
    let mut listed = Vec::new();
    layer.for_each(|key, _| listed.push(*key));
    assert!(listed.is_empty(), "{listed:?}");
}

#[cfg(feature = "http")]
#[test]
fn an_authority_is_the_host_and_the_port() {
    use buttress::http::by_authority;
    use http::Request;

    for (uri, host, key) in [
        ("http://shop.example/orders", None, "shop.example"),
        ("http://shop.example:80/orders", None, "shop.example"),
        ("https://shop.example:80/", None, "shop.example:80"),
        ("https://ann:secret@Shop.example:443/", None, "shop.example"),
        ("http://[::1]:8080/", None, "[::1]:8080"),
        ("http://[::80]/", None, "[::80]"),
        ("http://shop.example:/", None, "shop.example"),
        ("HTTPS://SHOP.example:443/", None, "shop.example"),
        ("shop.example:443", None, "shop.example:443"),
        ("/orders", Some("Shop.example:8080"), "shop.example:8080"),
        ("http://shop.example/", Some("other.example"), "shop.example"),
        ("/orders", None, ""),
    ] {
        let mut request = Request::get(uri);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        assert_eq!(by_authority(&request.body(()).unwrap()), key, "{uri}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_is_in_the_rejection_only_if_it_is_described() {
    let open = async |described: bool, named: bool| {
        let mut builder = ten_calls().consecutive_failures(1);
        if named {
            builder = builder.name("outbound");
        }
        let mut builder = builder.keyed_fn(key);
        if described {
            builder = builder.describe_fn(|key| format!("host {key}"));
        }
        let service = builder.build().unwrap().layer(dependency());
        let _ = service.clone().oneshot((4_711, DOWN)).await;
        let error = service.oneshot((4_711, WELL)).await.unwrap_err();
        let Some(Rejection::CircuitOpen(open)) = error.rejection().cloned() else { panic!() };
        open
    };
    let (hidden, shown) = (open(false, true).await, open(true, true).await);
    assert_eq!((hidden.key(), shown.key()), (None, Some("host 4711")));
    // The name may label a metric, and has no key.
    assert_eq!((hidden.name(), shown.name()), ("outbound", "outbound"));
    assert_ne!(hidden, shown);
    assert!(!format!("{hidden} {hidden:?}").contains("4711"));
    assert!(shown.to_string().starts_with("outbound (host 4711): the circuit is open, retry in"));
    let unnamed = open(true, false).await;
    assert_eq!((unnamed.name(), unnamed.key()), ("circuit_breaker", Some("host 4711")));
}
