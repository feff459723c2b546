//! A registry shows what is armed and injected, and disarms it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock},
    task::Poll,
};

use buttress::{
    chaos::{ChaosHandle, ChaosLayer},
    telemetry::{Control, Event, Observer, Registry, Source, field},
};
use tokio::time::advance;
use tower::{Layer, ServiceExt};
use tracing::{Level, info_span};

use super::{HOUR, SECOND, builder, capture::Capture, client, reset, spawn};

/// Returns the numbers of all chaos layers: each gauge, and each counter that is not zero.
fn numbers(registry: &Registry) -> BTreeMap<String, f64> {
    let mut numbers = BTreeMap::new();
    for family in registry.gather() {
        let Some(name) = family.instrument.name.strip_prefix("buttress.chaos.") else { continue };
        for series in family.series {
            let (fault, value) = (series.attribute(field::FAULT), series.value.as_number());
            if value != 0.0 || fault.is_none() {
                let name = fault.map_or(name.to_owned(), |fault| format!("{name} {fault}"));
                assert_eq!(numbers.insert(name, value), None);
            }
        }
    }
    numbers
}

#[track_caller]
fn assert_numbers(registry: &Registry, expected: &[(&str, f64)]) {
    let expected = expected.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    assert_eq!(numbers(registry), expected);
}

#[tokio::test(start_paused = true)]
async fn a_registry_shows_what_is_armed_and_what_hangs() {
    let registry = Registry::new();
    let chaos = builder().name("orders").hangs(1.0).build().unwrap().register(&registry);
    let idle: &[_] = &[("armed", 0.0), ("hung", 0.0)];
    assert_numbers(&registry, idle);
    chaos.handle().arm_for(SECOND).unwrap();
    let mut held = spawn(chaos.layer(client().0));
    assert!(held.poll().is_pending());
    assert_numbers(&registry, &[("armed", 1.0), ("hung", 1.0), ("faults hang", 1.0)]);
    drop(held);
    // Nobody calls the layer when its time is over.
    advance(SECOND).await;
    assert_numbers(&registry, &[("armed", 0.0), ("hung", 0.0), ("faults hang", 1.0)]);
    drop(chaos);
    assert_numbers(&registry, &[]);
}

#[tokio::test(start_paused = true)]
async fn each_fault_counts_once_and_in_its_own_series() {
    async fn count<E, R, P>(chaos: ChaosLayer<E, R, P>, fault: &str)
    where
        E: buttress::chaos::MakeError<std::io::Error>,
        R: buttress::chaos::MakeResponse<&'static str, u32>,
        P: buttress::chaos::Partition<&'static str>,
    {
        let registry = Registry::new();
        let chaos = chaos.register(&registry);
        chaos.handle().arm_for(SECOND).unwrap();
        let _ = chaos.layer(client().0).oneshot("request").await;
        let counted = numbers(&registry).into_iter().filter(|(name, _)| name.contains("faults"));
        assert_eq!(counted.collect::<Vec<_>>(), [(format!("faults {fault}"), 1.0)]);
    }
    count(builder().delays(1.0, SECOND).build().unwrap(), "delay").await;
    count(builder().errors_fn(1.0, reset).build().unwrap(), "error").await;
    count(builder().responses_fn(1.0, |_: &&str| 2).build().unwrap(), "response").await;
    count(builder().hangs(1.0).build().unwrap(), "hang").await;
    count(builder().late_responses(1.0, SECOND).build().unwrap(), "late_response").await;
    count(builder().lost_responses(1.0).build().unwrap(), "lost_response").await;
    count(builder().partition_fn(|_: &&str| true).build().unwrap(), "partition").await;
}

#[tokio::test(start_paused = true)]
async fn a_registry_disarms_a_layer_by_name_and_never_arms_one() {
    let (registry, (capture, _guard)) = (Registry::new(), Capture::start());
    let chaos = builder().name("orders").hangs(1.0).build().unwrap().register(&registry);
    let control = |control| registry.control(None, "orders", control, "somebody");
    chaos.handle().arm_for(HOUR).unwrap();
    let mut held = spawn(chaos.layer(client().0));
    assert!(held.poll().is_pending());
    for other in [Control::Close, Control::Reset, Control::Disable, Control::Resize(1)] {
        assert_eq!(control(other), 0);
        assert!(chaos.handle().is_armed());
    }
    assert_eq!(control(Control::Disarm), 1);
    assert!(!chaos.handle().is_armed());
    assert!(held.is_woken() && matches!(held.poll(), Poll::Ready(Ok(1))));
    let last = capture.events().pop().unwrap();
    assert_eq!(last.get(field::CONTROL), Some("disarm"));
    assert_eq!(last.get(field::ACTOR), Some("somebody"));
}

#[tokio::test(start_paused = true)]
async fn chaos_tells_of_its_arming_its_faults_and_its_end() {
    let (capture, _guard) = Capture::start();
    let chaos = builder().name("orders").hangs(1.0).build().unwrap();
    let handle = chaos.handle();
    let span = info_span!("of_the_call").entered();
    handle.arm_for(2 * SECOND).unwrap();
    assert!(spawn(chaos.layer(client().0)).poll().is_pending());
    // The second arming ends the first.
    handle.arm_for(SECOND).unwrap();
    drop(span);
    advance(SECOND).await;
    assert_eq!(chaos.layer(client().0).oneshot("request").await.unwrap(), 1);
    let expected = [
        (Level::WARN, "chaos armed"),
        (Level::DEBUG, "fault injected"),
        (Level::WARN, "chaos disarmed"),
        (Level::WARN, "chaos armed"),
        (Level::WARN, "chaos disarmed"),
    ];
    assert_eq!(capture.texts(), expected.map(|(level, text)| (level, text.to_owned())));
    let events = capture.events();
    assert!(events.iter().all(|event| event.get(field::LAYER) == Some("orders")));
    assert!(events.iter().all(|event| event.target == "buttress::chaos"));
    let within = events.iter().map(|event| event.within.as_deref());
    assert_eq!(within.collect::<Vec<_>>(), [None, Some("of_the_call"), None, None, None]);
    assert_eq!(events[0].get(field::LIMIT_MS), Some("2000"));
    assert_eq!(events[1].get(field::FAULT), Some("hang"));
    assert_eq!(events[1].get(field::FAULT_CALL), Some("0"));
    assert_eq!(events[2].get(field::INJECTED), Some("1"));
    assert_eq!(events[4].get(field::INJECTED), Some("0"));
}

/// Disarms the layer at its first fault.
struct Cautious(Arc<OnceLock<ChaosHandle>>, Arc<Mutex<Vec<&'static str>>>);

impl Observer for Cautious {
    fn on_event(&self, _: Source<'_>, event: &Event<'_>) {
        let text = match event {
            Event::ChaosArmed { .. } => "armed",
            Event::ChaosDisarmed { .. } => "disarmed",
            Event::FaultInjected { fault, .. } => {
                self.0.get().unwrap().disarm();
                fault
            }
            _ => return,
        };
        self.1.lock().unwrap().push(text);
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_may_disarm_the_layer() {
    let (registry, handle, seen) = (Registry::new(), Arc::default(), Arc::default());
    registry.observe(Cautious(Arc::clone(&handle), Arc::clone(&seen)));
    let chaos = builder().hangs(1.0).build().unwrap().register(&registry);
    handle.set(chaos.handle()).unwrap();
    chaos.handle().arm_for(HOUR).unwrap();
    assert!(matches!(spawn(chaos.layer(client().0)).poll(), Poll::Ready(Ok(1))));
    assert_eq!(*seen.lock().unwrap(), ["armed", "disarmed", "hang"]);
}
