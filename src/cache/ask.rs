//! A call that has no fresh entry, as it begins with its first poll.

use std::{sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use super::{
    config::{ENTRY_BYTES, Times},
    entry::{Decision, Entry},
    hashing::Hashed,
    owned_service::OwnedService,
    parts::Parts,
    rules::Rules,
    shared_call::{Part, Place},
    task::{Begun, Landing, Reply},
};
use crate::{
    Classify,
    call::{
        clock,
        completion::{Completion, end_of},
        deadline::deadline,
        route::Settler,
    },
};

/// A call that has to ask.
pub(super) struct Asking<S, Req, K, V, R, C> {
    pub(super) parts: Arc<Parts<K, V, R, C>>,
    pub(super) key: Hashed<K>,
    pub(super) tag: u64,
    pub(super) service: S,
    pub(super) request: Req,
    /// The time of the call, from which its total limit counts.
    pub(super) arrived: Instant,
}

/// The way in which a call gets its response.
pub(super) enum Asked<S, Req, K: Eq, V, Res, E> {
    /// The entry is given without waiting.
    Entry { entry: Arc<Entry<V>>, decision: Decision },
    /// It waits for the call that it began.
    Began { place: Place<K, V>, reply: oneshot::Receiver<Reply<Res, E>>, stale: Stale<V> },
    /// It waits for the call of another caller, and keeps its own request for the case that this
    /// call has nothing to share.
    Joined { place: Place<K, V>, service: S, request: Req, stale: Stale<V> },
    /// It asks by itself.
    Alone { service: S, request: Req, stale: Option<Arc<Entry<V>>>, had_entry: bool },
}

/// An older response that is given if the service fails or takes too long.
pub(super) struct Stale<V> {
    pub(super) entry: Option<Arc<Entry<V>>>,
    /// The instant at which the older response is given, and the time that passes until then.
    pub(super) until: Option<(Instant, Duration)>,
    /// The caller has less time than the layer would wait. This says nothing about the service.
    pub(super) is_hurried: bool,
    /// There was an entry, even if it cannot be given.
    pub(super) had_entry: bool,
}

impl<S, Req, K, V, R, C> Asking<S, Req, K, V, R, C>
where
    S: OwnedService<Req>,
    Req: Send + 'static,
    K: Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    R: Rules<Req, S::Response, K, V> + Send + Sync + 'static,
    C: Classify<S::Response, S::Error> + Send + Sync + 'static,
{
    /// Decides again, because time has passed since the call was made, and begins.
    ///
    /// Nothing was begun or joined before. A future that is never polled keeps no caller waiting.
    pub(super) fn begin<M>(self) -> Asked<S, Req, K, V, S::Response, S::Error>
    where
        M: Completion<S::Response>,
    {
        let Self { parts, key, tag, service, request, .. } = self;
        let now = clock::now();
        let shared = &parts.shared;
        let times = *shared.times();
        let entry = shared.get(&key, shared.generations.current(tag));
        let had_entry = entry.as_ref().is_some_and(|entry| entry.value().is_some());
        let decision =
            entry.as_ref().map_or(Decision::Ask, |entry| entry.decide(entry.age(now), &times));
        let is_late = deadline().is_some_and(|deadline| deadline <= now);
        let (entry, is_renewal) = match (decision, entry) {
            (Decision::Hit | Decision::HeldOff, Some(entry)) => {
                return Asked::Entry { entry, decision };
            }
            (Decision::AskAlone, _) => {
                return Asked::Alone { service, request, stale: None, had_entry };
            }
            (Decision::AskOrStale, Some(entry))
                if !is_late && !entry.claim_try(now, times.hold_off) =>
            {
                return Asked::Entry { entry, decision: Decision::HeldOff };
            }
            (Decision::Renew, Some(entry)) => (Some(entry), true),
            (Decision::AskOrStale, entry) => (entry, false),
            _ => (None, false),
        };
        // What cannot end in time is not begun. The layers beneath reject it.
        if !is_renewal && is_late {
            return Asked::Alone { service, request, stale: entry, had_entry };
        }
        let look = |generation| {
            let fresh = shared.get(&key, generation)?;
            (fresh.decide(fresh.age(now), &times) == Decision::Hit).then_some(fresh)
        };
        // Nothing of a call takes longer than twice the total timeout beneath.
        let longest = parts.total.map_or(LONGEST, |total| total.saturating_mul(2));
        let until = clock::after(now, longest);
        let generation = || shared.generations.current(tag);
        let part = shared.calls.join_or_begin(&key, generation, until, look);
        let (place, permit) = match part {
            Err(entry) => return Asked::Entry { entry, decision: Decision::Hit },
            Ok(Part::Began(place, permit)) => (place, permit),
            Ok(Part::Joined(_) | Part::Full) if is_renewal => {
                return match entry {
                    Some(entry) => Asked::Entry { entry, decision },
                    None => Asked::Alone { service, request, stale: None, had_entry },
                };
            }
            Ok(Part::Joined(place)) => {
                let stale = Stale::new(entry, &times, now, had_entry);
                return Asked::Joined { place, service, request, stale };
            }
            Ok(Part::Full) => return Asked::Alone { service, request, stale: entry, had_entry },
        };
        let continues = is_renewal || shared.config.finishes_abandoned;
        let key_bytes = ENTRY_BYTES.saturating_add(parts.rules.key_bytes(key.key()));
        let call = Arc::clone(place.call());
        let begun = Begun {
            landing: Landing::new(Arc::clone(&parts), key, tag, call, key_bytes, permit),
            service,
            request,
            stale: entry.clone(),
            own_place: continues.then(|| place.of_call()),
            settles: Settler::current().is_some(),
            end_of: end_of::<M, _, _>,
            parts,
        };
        let reply = begun.spawn();
        match entry {
            Some(entry) if is_renewal => Asked::Entry { entry, decision },
            entry => {
                Asked::Began { place, reply, stale: Stale::new(entry, &times, now, had_entry) }
            }
        }
    }
}

/// The time in which callers join a call, if there is no total timeout beneath.
const LONGEST: Duration = Duration::from_secs(60);

impl<V> Stale<V> {
    pub(super) fn new(
        entry: Option<Arc<Entry<V>>>,
        &Times { patience, reserve, .. }: &Times,
        now: Instant,
        had_entry: bool,
    ) -> Self {
        let left = deadline().map(|deadline| reserve.time_before(deadline, now));
        let time = left.into_iter().chain(patience).min().filter(|_| entry.is_some());
        let until = time.and_then(|time| Some((now.checked_add(time)?, time)));
        let is_hurried = left.is_some() && patience.is_none_or(|patience| left < Some(patience));
        Self { entry, until, is_hurried, had_entry }
    }
}
