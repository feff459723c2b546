//! The last readings of the registry, which rates need.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use buttress::telemetry::{Family, InstrumentKind, Registry};
use tokio::time::{Instant, sleep};

use crate::{
    collect::snapshots,
    snapshot::{Failing, Snapshot},
};

/// The shortest time between two readings from which rates are computed.
const SHORTEST: Duration = Duration::from_millis(900);
/// The shortest time between two readings that are kept.
const SPACING: Duration = Duration::from_millis(1_900);
/// The pause between two readings, if there was no earlier one.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest time that counts cover, if there are enough readings.
const WINDOW: Duration = Duration::from_millis(10_500);
/// The age at which a reading is forgotten.
const OLDEST: Duration = Duration::from_secs(15);
/// The time for which failing attempts are remembered.
const REMEMBERED: Duration = Duration::from_secs(3_600);
/// The number of dependencies whose failing attempts are remembered.
const DEPENDENCIES: usize = 256;

/// The last readings of a registry.
#[derive(Default)]
pub(crate) struct Readings {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The readings, the oldest first.
    ring: VecDeque<Reading>,
    failing: HashMap<(Option<String>, String), (Instant, Failing)>,
}

#[derive(Clone)]
struct Reading {
    at: Instant,
    families: Arc<Vec<Family>>,
}

impl Reading {
    fn take(registry: &Registry) -> Self {
        let mut families = registry.gather();
        // Other histograms would only take memory.
        families.retain(|family| {
            family.instrument.kind != InstrumentKind::Histogram
                || matches!(
                    family.instrument.name,
                    "buttress.call.duration" | "buttress.attempt.duration"
                )
        });
        Self { at: Instant::now(), families: Arc::new(families) }
    }
}

impl Readings {
    /// Returns the snapshots of all dependencies.
    ///
    /// Without a reading of the last seconds, it takes two readings with a pause of one second.
    pub(crate) async fn snapshots(&self, registry: &Registry) -> Vec<Snapshot> {
        let (now, then) = loop {
            let now = Reading::take(registry);
            if let Some(then) = self.lock().exchange(&now) {
                break (now, then);
            }
            // The ring has a reading that is old enough after the pause. Many requests can wait, so
            // they do not keep this one.
            drop(now);
            sleep(PAUSE).await;
        };
        let seconds = now.at.saturating_duration_since(then.at).as_secs_f64();
        let mut snapshots = snapshots(&now.families, &then.families, seconds);
        self.lock().recall(&mut snapshots, now.at);
        snapshots
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Keeps a reading, and returns the earlier one to compare it with.
    fn exchange(&mut self, now: &Reading) -> Option<Reading> {
        let age = |it: &Reading| now.at.saturating_duration_since(it.at);
        self.ring.retain(|it| age(it) <= OLDEST);
        let old_enough = |it: &&Reading| age(it) >= SHORTEST;
        let in_window = self.ring.iter().filter(old_enough).find(|it| age(it) <= WINDOW);
        let then = in_window.or(self.ring.iter().rfind(old_enough)).cloned();
        if self.ring.back().is_none_or(|last| age(last) >= SPACING) {
            self.ring.push_back(now.clone());
        }
        then
    }

    /// Remembers failing attempts, because an open circuit lets none through.
    fn recall(&mut self, snapshots: &mut [Snapshot], now: Instant) {
        let age = |at: Instant| now.saturating_duration_since(at);
        self.failing.retain(|_, (at, _)| age(*at) <= REMEMBERED);
        for snapshot in snapshots {
            let key = (snapshot.stack.clone(), snapshot.name.clone());
            let (sent, failed) = snapshot.sent_and_failed();
            let cause = snapshot.cause().map(str::to_owned);
            let known = self.failing.get(&key);
            // The last reading before a circuit opens has most of the failures.
            let is_more = known.is_none_or(|(at, it)| it.failed <= failed || age(*at) > WINDOW);
            let has_place = known.is_some() || self.failing.len() < DEPENDENCIES;
            if snapshot.is_failing() && is_more && has_place {
                let failing = Failing { ago: 0.0, sent, failed, cause };
                self.failing.insert(key.clone(), (now, failing));
            }
            snapshot.last_failing = self
                .failing
                .get(&key)
                .map(|(at, failing)| Failing { ago: age(*at).as_secs_f64(), ..failing.clone() });
        }
    }
}
