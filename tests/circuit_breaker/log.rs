//! The line of a circuit that closes tells of the whole outage.

use buttress::{circuit_breaker::CircuitBreakerLayer, telemetry::field};
use tokio::time::advance;
use tower::{Layer, ServiceExt, service_fn};
use tracing::Level;
use tracing_subscriber::{Layer as _, filter::LevelFilter};

use super::{
    DOWN, OPEN_FOR, SECOND, WELL,
    capture::{Capture, Seen, subscribe},
    forced::{breaker, call, down, well},
};

fn number(event: &Seen, field: &str) -> u64 {
    event.get(field).map_or(0, |number| number.parse().unwrap())
}

/// Returns the number of lines at WARN or above about rejections, and the rejections in all lines.
fn rejections(capture: &Capture) -> (usize, u64) {
    let events = capture.events();
    let lines = events.iter().filter(|it| it.name == "call rejected" && it.level == Level::WARN);
    let count = lines.clone().count();
    let suppressed = lines.chain(events.iter().filter(|it| it.name == "circuit closed"));
    (count, count as u64 + suppressed.map(|it| number(it, field::SUPPRESSED)).sum::<u64>())
}

/// Opens the circuit, is rejected so often, and closes the circuit by a probe.
async fn outage(layer: &CircuitBreakerLayer, rejections: u64) {
    let _ = call(layer, down()).await;
    for number in 0..rejections {
        if number == rejections / 2 {
            advance(10 * SECOND).await;
        }
        assert!(call(layer, well()).await.is_err());
    }
    advance(2 * OPEN_FOR).await;
    assert_eq!(call(layer, well()).await, WELL);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_rejections_are_three_lines_and_the_last_one_closes_the_outage() {
    let (capture, _guard) = Capture::start();
    let layer = breaker().name("orders").build().unwrap();
    outage(&layer, 10_000).await;
    assert_eq!(rejections(&capture), (2, 10_000));
    let closed = capture.events().into_iter().find(|it| it.name == "circuit closed").unwrap();
    assert_eq!(closed.level, Level::INFO);
    assert_eq!(number(&closed, field::REJECTED), 10_000);
    assert_eq!(number(&closed, field::OPEN_MS), 70_000);
    assert_eq!(closed.get(field::REASON), Some("probes_passed"));
    assert_eq!(number(&closed, field::SUPPRESSED), 4_999);

    // The first rejection of the next outage has a line at once.
    outage(&layer, 1).await;
    assert_eq!(rejections(&capture), (3, 10_001));
    let closed = capture.events().into_iter().rfind(|it| it.name == "circuit closed").unwrap();
    assert_eq!(number(&closed, field::REJECTED), 1);
    assert_eq!(closed.get(field::SUPPRESSED), None);
}

#[tokio::test(start_paused = true)]
async fn the_first_rejection_of_the_next_outage_is_in_the_log_at_once() {
    let (capture, _guard) = Capture::start();
    let layer = breaker().name("orders").build().unwrap();
    for outage in 1..=3 {
        let _ = call(&layer, down()).await;
        for _ in 0..10 {
            let _ = call(&layer, well()).await;
        }
        layer.handle().close();
        assert_eq!(rejections(&capture), (outage, 10 * outage as u64));
    }
}

#[tokio::test(start_paused = true)]
async fn suppressed_rejections_are_not_lost_if_nobody_sees_the_circuit_close() {
    let capture = Capture::default();
    let _guard = subscribe(capture.clone().and_then(LevelFilter::WARN));
    let layer = breaker().name("orders").build().unwrap();
    outage(&layer, 100).await;
    outage(&layer, 1).await;
    assert_eq!(rejections(&capture), (3, 101));
}

#[tokio::test(start_paused = true)]
async fn an_outage_lasts_until_the_circuit_closes_whatever_happens_in_between() {
    let (capture, _guard) = Capture::start();
    let layer = breaker().build().unwrap();
    let _ = call(&layer, down()).await;
    let _ = call(&layer, well()).await;
    advance(OPEN_FOR).await;
    let _ = call(&layer, down()).await;
    let _ = call(&layer, well()).await;
    layer.handle().force_open();
    let _ = call(&layer, well()).await;
    advance(SECOND).await;
    layer.handle().close();
    let closed = capture.events().pop().unwrap();
    assert_eq!((closed.name.as_str(), number(&closed, field::REJECTED)), ("circuit closed", 3));
    assert_eq!(number(&closed, field::OPEN_MS), 31_000);
    assert_eq!(closed.get(field::REASON), Some("forced"));
    // A circuit that was only disabled was not open.
    layer.handle().disable();
    layer.handle().close();
    let closed = capture.events().pop().unwrap();
    assert_eq!((number(&closed, field::REJECTED), closed.get(field::OPEN_MS)), (0, None));
}

#[tokio::test(start_paused = true)]
async fn each_key_tells_of_its_own_outage() {
    let (capture, _guard) = Capture::start();
    let keyed = breaker().keyed_fn(|key: &u32| *key).describe_fn(u32::to_string).build().unwrap();
    let service = keyed.layer(service_fn(|_: u32| async { DOWN }));
    for (key, rejections) in [(1, 3), (2, 5)] {
        for _ in 0..=rejections {
            let _ = service.clone().oneshot(key).await;
        }
        keyed.handle(&key).unwrap().close();
        let closed = capture.events().pop().unwrap();
        assert_eq!(closed.get(field::BREAKER_KEY), Some(key.to_string().as_str()));
        assert_eq!(number(&closed, field::REJECTED), rejections);
    }
    assert_eq!(rejections(&capture), (2, 8));
}
