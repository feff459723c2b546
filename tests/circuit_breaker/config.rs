//! Tests of the configuration. Invalid settings are rejected by name, and all others work.

use std::{fmt, time::Duration};

use buttress::{
    ConfigError,
    circuit_breaker::{CircuitBreakerBuilder, CircuitBreakerLayer, State},
    testing::Step,
};
use tokio::time::{advance, timeout};

use super::{DOWN, MS, Rig, SECOND, WELL, ten_calls};

fn defaults() -> CircuitBreakerBuilder {
    CircuitBreakerLayer::builder()
}

#[track_caller]
fn rejected(builder: CircuitBreakerBuilder, knob: &str, value: impl fmt::Debug) {
    let error: ConfigError = builder.build().map(|_| ()).unwrap_err();
    assert_eq!((error.knob(), error.value()), (knob, &*format!("{value:?}")));
    assert!(!error.rule().is_empty());
    let text = error.to_string();
    assert!(text.contains(knob) && text.contains(error.value()) && text.contains(error.rule()));
}

#[tokio::test(start_paused = true)]
async fn bad_config_names_knob_value_and_rule() {
    let not_ratios = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.1, 1.000_001, f64::MAX];
    for bad in not_ratios.into_iter().chain([0.0, -0.0]) {
        rejected(defaults().failure_rate(bad), "failure_rate", bad);
        rejected(defaults().probe_success_ratio(bad), "probe_success_ratio", bad);
        rejected(defaults().slow_calls(SECOND, bad), "slow_calls", bad);
    }
    for bad in not_ratios {
        rejected(defaults().open_jitter(bad), "open_jitter", bad);
    }
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, 0.999, -2.0] {
        rejected(defaults().open_growth(bad), "open_growth", bad);
    }
    let zero = Duration::ZERO;
    rejected(defaults().slow_calls(zero, 0.5), "slow_calls", zero);
    rejected(defaults().open_for(zero), "open_for", zero);
    rejected(defaults().probe_lease(zero), "probe_lease", zero);
    for bad in [zero, Duration::from_nanos(1), MS * 9] {
        rejected(defaults().time_window(bad), "time_window", bad);
    }
    rejected(defaults().minimum_calls(0), "minimum_calls", 0);
    rejected(defaults().consecutive_failures(0), "consecutive_failures", 0);
    rejected(defaults().probes(0), "probes", 0);
    rejected(defaults().count_window(0), "count_window", 0);
    for bad in [1 << 23, u32::MAX] {
        rejected(defaults().count_window(bad), "count_window", bad);
    }
    // These settings are in the wrong order, or contradict each other.
    rejected(
        defaults().open_for(SECOND * 301).max_open_for(SECOND * 300),
        "max_open_for",
        SECOND * 300,
    );
    rejected(defaults().max_open_for(SECOND), "max_open_for", SECOND);
    rejected(ten_calls().minimum_calls(11), "minimum_calls", 11);
    rejected(ten_calls().minimum_calls(u32::MAX), "minimum_calls", u32::MAX);
    rejected(defaults().time_window(SECOND).count_window(20), "count_window", 20);
    rejected(defaults().without_failure_rate(), "without_failure_rate", true);
    let by_streak = defaults().without_failure_rate().consecutive_failures(1);
    rejected(by_streak.minimum_calls(5), "minimum_calls", 5);
}

#[test]
fn a_default_gives_way_to_the_knob_that_was_set() {
    // Setting one knob never causes an error about another.
    assert!(defaults().count_window(1).build().is_ok());
    assert!(defaults().open_for(SECOND * 301).build().is_ok());
    assert!(defaults().open_for(Duration::MAX).build().is_ok());
}

/// Runs a breaker through all states that compute times or counts.
async fn live(builder: CircuitBreakerBuilder) {
    let rig = Rig::new(builder.clone());
    for round in 0..4 {
        for step in 0..30 {
            let answer = if step % 3 == 0 { WELL } else { DOWN };
            rig.inner.push(Step::RespondAfter(MS, answer));
            let _ = timeout(SECOND, rig.call()).await;
        }
        rig.inner.push(Step::Hang);
        let _ = timeout(SECOND * 3, rig.call()).await;
        let (_, _) = (rig.seen(), format!("{:?} {:?}", rig.breaker, rig.service));
        advance([MS, SECOND * 40, SECOND * 86_400, SECOND * 86_400 * 365][round]).await;
        let _waiting = timeout(MS, rig.call()).await;
        rig.inner.push(Step::Respond(WELL));
        let _ = timeout(SECOND, rig.call()).await;
        let mut ready = rig.spawned();
        if ready.poll_ready().is_ready() {
            let _ = timeout(SECOND, ready.call(()).into_inner()).await;
        }
    }
    rig.breaker.force_open();
    rig.breaker.reset();
    assert_eq!(rig.state(), State::Closed);
    // `Duration::MAX` is a valid setting, and the breaker continues to work. The script still has
    // the steps of rejected calls, including the one that hangs.
    let mut answered = false;
    for _ in 0..150 {
        rig.breaker.reset();
        answered = timeout(SECOND, rig.call()).await.is_ok();
    }
    assert!(answered);
}

#[tokio::test(start_paused = true)]
async fn extreme_settings_neither_panic_nor_overflow() {
    let (max, tiny) = (Duration::MAX, Duration::from_nanos(1));
    let trips = || defaults().minimum_calls(2).consecutive_failures(2);
    let cases = [
        trips().time_window(max),
        trips().time_window(MS * 10),
        trips().time_window(SECOND * 86_400 * 365 * 600),
        trips().minimum_calls(u32::MAX),
        trips().minimum_calls(1).count_window(1),
        trips().count_window((1 << 23) - 1),
        trips().consecutive_failures(u32::MAX),
        trips().consecutive_failures(1),
        trips().failure_rate(f64::MIN_POSITIVE),
        trips().failure_rate(1.0),
        trips().slow_calls(max, f64::MIN_POSITIVE),
        trips().slow_calls(tiny, 1.0),
        trips().max_open_for(max),
        trips().open_for(max).max_open_for(max),
        trips().open_for(max - tiny).max_open_for(max).open_jitter(1.0).open_growth(f64::MAX),
        trips().open_for(tiny).open_jitter(1.0),
        trips().open_for(tiny).max_open_for(tiny),
        trips().open_for(tiny).max_open_for(max).open_growth(f64::MAX),
        trips().open_growth(1.0).open_jitter(0.0),
        trips().open_for(MS).probes(u32::MAX),
        trips().open_for(MS).probes(u32::MAX).probe_success_ratio(1.0),
        trips().open_for(MS).probes(1).probe_success_ratio(f64::MIN_POSITIVE),
        trips().open_for(MS).probe_lease(max),
        trips().open_for(MS).probe_lease(tiny),
        trips().open_for(MS).abandoned_after(max),
        trips().open_for(MS).abandoned_after(Duration::ZERO),
        trips().name(String::from("a name \u{1F980} made at run time")),
    ];
    for case in cases {
        live(case.clone()).await;
        live(case.pend()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_time_without_end_has_none() {
    for pend in [false, true] {
        let builder = ten_calls().open_for(Duration::MAX).max_open_for(Duration::MAX);
        let rig = Rig::new(if pend { builder.pend() } else { builder });
        rig.trip().await;
        advance(SECOND * 86_400 * 365).await;
        let left = rig.seen().retry_after().unwrap();
        assert!(left > SECOND * 86_400 * 365 * 500, "{left:?}");
        assert_eq!(rig.spawned().poll_ready().is_pending(), pend);
        rig.breaker.close();
        rig.answer(WELL).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_without_end_never_expires() {
    let rig = Rig::new(ten_calls().probes(1).probe_lease(Duration::MAX));
    rig.trip_and_wait().await;
    rig.inner.push(Step::RespondWhenReleased(WELL));
    let mut probe = rig.ready().call(());
    assert!(probe.poll().is_pending());
    advance(SECOND * 86_400 * 365).await;
    rig.rejected().await;
    assert_eq!(rig.state(), State::HalfOpen);
    rig.inner.release();
    assert!(probe.poll().is_ready());
    assert_eq!(rig.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_short_window_counts_again_after_any_idle_time() {
    // Ten milliseconds is the shortest window. Even after a weekend of idle time it must count
    // again.
    let rig = Rig::new(defaults().time_window(MS * 10).minimum_calls(10));
    for hours in [1, 12, 24, 36, 46, 48, 72] {
        rig.answers(5, WELL).await;
        advance(SECOND * 3_600 * hours).await;
        rig.answers(5, WELL).await;
        assert_eq!(rig.window(), (5, 0, 0), "after {hours} hours");
        advance(MS * 10).await;
    }
}
