use buttress::{
    Stack,
    telemetry::{Registry, field},
};
use tokio::time::advance;
use tower::{Layer, ServiceExt};
use tracing::Level;

use super::{capture::Capture, *};

/// Returns the number of calls with each result.
fn results(registry: &Registry) -> Vec<(String, u64)> {
    let families = registry.gather();
    let family = families.iter().find(|it| it.instrument.name == "buttress.cache.requests");
    let series = family.unwrap().series.iter().map(|series| {
        let result = series.attribute("buttress.result").unwrap();
        (result.to_owned(), series.value.as_number() as u64)
    });
    series.filter(|(_, count)| *count > 0).collect()
}

#[tokio::test(start_paused = true)]
async fn a_registered_cache_counts_each_call_once() {
    let (registry, backend) = (Registry::new(), Backend::after(Duration::ZERO));
    let cache = cache().ttl(10 * SECOND).if_error(60 * SECOND).build().unwrap();
    let stack = Stack::new().name("rates").register(&registry).cache(cache.clone());
    let service = stack.layer(backend.clone());
    for key in [1, 1, 1, 0] {
        service.clone().oneshot(key).await.unwrap();
    }
    let joined = futures::future::join_all((0..3).map(|_| service.clone().oneshot(2)));
    drop(joined.await);
    advance(10 * SECOND).await;
    backend.fails();
    for _ in 0..4 {
        service.clone().oneshot(1).await.unwrap();
    }
    let mut counted = results(&registry);
    counted.sort();
    let expected = [("bypassed", 1), ("collapsed", 2), ("hit", 2), ("miss", 2), ("stale", 4)];
    assert_eq!(counted, expected.map(|(result, count)| (result.to_owned(), count)));
    let counts = cache.handle().counts();
    assert_eq!((counts.entries, counts.shared_calls), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_too_big_is_told() {
    let backend = Backend::after(Duration::ZERO);
    let cache = cache().max_entry_bytes(1_000).size_fn(|_| 1_000).build().unwrap();
    let service = Stack::new().name("rates").cache(cache.clone()).layer(backend.clone());
    let (capture, _guard) = Capture::start();
    for call in [1, 2] {
        assert_eq!(service.clone().oneshot(1).await.unwrap(), call);
    }
    let texts = capture.texts();
    let warned: Vec<_> = texts.iter().filter(|(level, _)| *level == Level::WARN).collect();
    assert_eq!(warned, [&(Level::WARN, "response not kept".to_owned())]);
    let events = capture.events();
    let event = events.iter().find(|event| event.get(field::REASON).is_some()).unwrap();
    assert_eq!(event.get(field::REASON), Some("size"));
    assert_eq!(cache.handle().counts().entries, 0);
}

#[tokio::test(start_paused = true)]
async fn a_stale_response_is_told_once_and_marked_in_the_span() {
    let backend = Backend::after(Duration::ZERO);
    let cache = cache().ttl(10 * SECOND).if_error(60 * SECOND).hold_off(Duration::ZERO);
    let service = Stack::new().name("rates").cache(cache.build().unwrap()).layer(backend.clone());
    service.clone().oneshot(1).await.unwrap();
    let (capture, _guard) = Capture::start();
    service.clone().oneshot(1).await.unwrap();
    assert_eq!(capture.texts(), []);
    let span = &capture.spans()[0];
    assert_eq!(span.get(field::SOURCE), Some("cache"));
    assert_eq!(span.get(field::OUTCOME), Some("success"));
    drop((capture, _guard));

    advance(10 * SECOND).await;
    backend.fails();
    let (capture, _guard) = Capture::start();
    for _ in 0..100 {
        service.clone().oneshot(1).await.unwrap();
    }
    let texts = capture.texts();
    let warned: Vec<_> = texts.iter().filter(|(level, _)| *level == Level::WARN).collect();
    assert_eq!(warned, [&(Level::WARN, "stale response given".to_owned())]);
    let events = capture.events();
    let span = &capture.spans()[0];
    assert_eq!(span.get(field::SOURCE), Some("stale"));
    assert_eq!(span.get(field::OUTCOME), Some("degraded"));
    assert_eq!(events[0].get(field::LAYER), Some("rates"));
    assert_eq!(events[0].get(field::REASON), Some("transient"));
    assert_eq!(events[0].get(field::AGE_MS), Some("10000"));
}
