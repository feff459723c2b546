//! Observers are told of each event, and harm nothing.

use std::sync::{
    Arc, Mutex, OnceLock, Weak,
    atomic::{AtomicUsize, Ordering},
};

use buttress::{
    circuit_breaker::State,
    telemetry::{Control, Event, Interest, Observer, Registry, Source},
    testing::{Step, task::Spawned},
};
use tokio::time::advance;

use super::{
    DOWN, OPEN_FOR, SECOND, WELL, breaker, call, counted, down, flaky, hangs, orders, queued,
    retry, well,
};

/// The events that an observer was told of.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    pub(crate) fn observe(registry: &Registry) -> Self {
        let seen = Self::default();
        registry.observe(seen.clone());
        seen
    }

    pub(crate) fn texts(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Observer for Seen {
    fn on_event(&self, source: Source<'_>, event: &Event<'_>) {
        let name = format!("{event:?}");
        let name = name.split(' ').next().unwrap();
        let detail = match event {
            Event::Rejected { rejection, .. } => rejection.kind().to_owned(),
            Event::NotRetried { reason, .. } | Event::RetriesExhausted { reason, .. } => {
                (*reason).to_owned()
            }
            Event::CircuitOpened { reason, open_for, .. } => format!("{reason} {open_for:?}"),
            Event::CircuitClosed { reason, rejected, open_for, .. } => {
                format!("{reason} {rejected} {open_for:?}")
            }
            Event::Measured { values, took, .. } => format!("{} {took:?}", values[0]),
            _ => String::new(),
        };
        let text = format!("{} {name} {detail}", source.kind());
        self.0.lock().unwrap().push(text.trim_end().to_owned());
    }
}

struct All<F>(F);

impl<F: Fn() + Send + Sync> Observer for All<F> {
    fn on_event(&self, _: Source<'_>, _: &Event<'_>) {
        (self.0)();
    }

    fn interest(&self) -> Interest {
        Interest::All
    }
}

/// Makes calls that cause each kind of event.
async fn outage(registry: &Registry) {
    let stack = orders(registry)
        .retry(retry().build().unwrap())
        .bulkhead(queued())
        .circuit_breaker(breaker().build().unwrap())
        .attempt_timeout(10 * SECOND);
    let handle = stack.circuit_breaker_handle().unwrap();
    assert_eq!(call(&stack, flaky([Step::Respond(DOWN)])).await, DOWN);
    advance(OPEN_FOR).await;
    assert_eq!(call(&stack, well()).await, WELL);
    let mut holder = Spawned::new(call(&stack, hangs()));
    let mut waits = Spawned::new(call(&stack, well()));
    assert!(holder.poll().is_pending() && waits.poll().is_pending());
    advance(SECOND).await;
    assert!(waits.poll().is_ready());
    drop(holder);
    handle.force_open_for(SECOND);
    handle.close();
    handle.disable();
    handle.close();
}

#[tokio::test(start_paused = true)]
async fn an_observer_is_told_of_each_event_with_plain_values() {
    let registry = Registry::new();
    let seen = Seen::observe(&registry);
    outage(&registry).await;
    assert_eq!(
        seen.texts(),
        [
            "circuit_breaker CircuitOpened consecutive_failures Some(30s)",
            "retry Retrying",
            "circuit_breaker Rejected circuit_open",
            "retry RetriesExhausted rejected",
            "circuit_breaker CircuitHalfOpen",
            "circuit_breaker CircuitClosed probes_passed 1 Some(30.001s)",
            "bulkhead CallQueued",
            "bulkhead Rejected queue_timed_out",
            "circuit_breaker CircuitOpened forced Some(1s)",
            "circuit_breaker CircuitClosed forced 0 Some(0ns)",
            "circuit_breaker CircuitDisabled",
            "circuit_breaker CircuitClosed forced 0 None",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_panics_changes_no_call_and_no_number() {
    let (quiet, loud) = (Registry::new(), Registry::new());
    loud.observe(All(|| panic!("an observer")));
    let later = Seen::observe(&loud);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    for registry in [&quiet, &loud] {
        let _kept = super::registration::kept(registry);
        outage(registry).await;
    }
    std::panic::set_hook(hook);
    let kept = [&quiet, &loud].map(super::registration::kept);
    assert_eq!(counted(&quiet), counted(&loud));
    drop(kept);
    assert_eq!(later.texts().len(), 12, "the next observer is told too");
}

#[tokio::test(start_paused = true)]
async fn an_observer_may_use_everything_from_within_an_event() {
    static DEPTH: AtomicUsize = AtomicUsize::new(0);
    let registry = Registry::new();
    let layer = breaker().build().unwrap().register(&registry);
    let queued = queued().register(&registry);
    let (circuit, slots) = (layer.handle(), queued.handle());
    let within: Arc<OnceLock<Registry>> = Arc::default();
    let weak: Weak<OnceLock<Registry>> = Arc::downgrade(&within);
    _ = within.set(registry.clone());
    registry.observe(All(move || {
        // The changes below are events too.
        if DEPTH.fetch_add(1, Ordering::Relaxed) < 3 {
            let within = weak.upgrade().unwrap();
            let registry = within.get().unwrap();
            assert!(!registry.gather().is_empty());
            assert!(registry.ready().unready.len() <= 1);
            registry.observe(All(|| {}));
            slots.resize(1).unwrap();
            circuit.force_open();
            circuit.snapshot();
            registry.control(None, "circuit_breaker", Control::Close, "an observer");
            registry.control(None, "bulkhead", Control::Resize(1), "an observer");
        }
        DEPTH.fetch_sub(1, Ordering::Relaxed);
    }));
    let _ = call(&layer, down()).await;
    assert_eq!(layer.handle().state(), State::Closed);
    let mut holder = Spawned::new(call(&queued, hangs()));
    let mut waits = Spawned::new(call(&queued, well()));
    assert!(holder.poll().is_pending() && waits.poll().is_pending());
    drop(waits);
    drop(holder);
    assert_eq!(super::gauges(&registry)["bulkhead.active"], 0.0);
    let panics = super::numbers(&registry, |_, name| name == "observer.panics");
    assert_eq!(panics["observer.panics"], 0.0);
}

#[tokio::test(start_paused = true)]
async fn observers_are_dropped_with_the_registry_and_its_layers() {
    let alive = Arc::new(());
    let registry = Registry::new();
    let held = Arc::clone(&alive);
    registry.observe(All(move || _ = &held));
    let layer = breaker().build().unwrap().register(&registry);
    drop(registry);
    let _ = call(&layer, down()).await;
    assert_eq!(Arc::strong_count(&alive), 2);
    drop(layer);
    assert_eq!(Arc::strong_count(&alive), 1);
}
