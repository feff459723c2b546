//! The state of a set of endpoints.

mod groups;

use std::{
    fmt, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError, Weak},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    check_rate::CheckRate,
    checks::Checks,
    config::Config,
    endpoint::{Endpoint, Limits, Set},
    health::{EndpointStatus, Health},
    list::{Entry, List},
    member::{Change, Member, Transition, find},
    slot::Slot,
};
use crate::{
    call::{
        clock::{self, nanos_since},
        lock::lock,
        random::{between, draw},
        route::Tried,
    },
    telemetry::Event,
};

/// The state that the services and the handles of a set of endpoints share.
pub(super) struct Shared<S> {
    pub(super) config: Arc<Config>,
    members: Mutex<Vec<Member<S>>>,
    /// Endpoints that were removed, and may have calls.
    removed: Mutex<Vec<Weak<Endpoint>>>,
    list: RwLock<List<S>>,
    checks: Option<Checks>,
    pub(super) origin: Instant,
}

impl<S: Send + 'static> Shared<S> {
    /// Creates a set without endpoints. `checks` are those of the set, if there are any.
    pub(super) fn new(
        config: Config,
        checks: impl FnOnce(&Weak<Self>) -> Option<Checks>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|set| Self {
            config: Arc::new(config),
            members: Mutex::default(),
            removed: Mutex::default(),
            list: RwLock::new(List::EMPTY),
            checks: checks(set),
            origin: Instant::now(),
        })
    }

    /// Adds endpoints with their address, their group and their service.
    ///
    /// Does nothing if `commit` returns `false`, which runs under the lock of the set.
    pub(super) fn add(
        self: &Arc<Self>,
        new: Vec<NewEndpoint<S>>,
        commit: impl FnOnce() -> bool,
    ) -> bool {
        let limits = Limits {
            max_concurrent: self.config.max_concurrent.unwrap_or(u32::MAX),
            consecutive_failures: self.config.consecutive_failures,
            origin: self.origin,
        };
        let now = Instant::now();
        let has_changed = self.change(now, |members, _| {
            if !commit() {
                return false;
            }
            members.extend(new.into_iter().map(|NewEndpoint { number, address, group, slot }| {
                let set: Weak<Self> = Arc::downgrade(self);
                let endpoint = Arc::new(Endpoint::new(number, address, group, limits, set));
                let entry = Entry { endpoint, slot };
                Member { entry, health: Health::default(), next_check: now, check: Weak::new() }
            }));
            true
        });
        if has_changed {
            self.wake_checks();
        }
        has_changed
    }
}

/// A check that is due.
pub(super) struct DueCheck<S> {
    pub(super) entry: Entry<S>,
    /// Dropped at the end of the check. There is one check of an endpoint at a time.
    pub(super) running: Arc<()>,
}

type DueChecks<S> = (Vec<DueCheck<S>>, Option<Instant>);

/// An endpoint that is added.
pub(super) struct NewEndpoint<S> {
    pub(super) number: u64,
    pub(super) address: Arc<dyn fmt::Display + Send + Sync>,
    pub(super) group: u8,
    pub(super) slot: Arc<Slot<S>>,
}

impl<S> Shared<S> {
    /// Starts the task of the checks, if there are any and there is a runtime.
    ///
    /// It starts again if the runtime in which it ran has ended.
    #[inline]
    pub(super) fn start_checks(&self) {
        if let Some(checks) = &self.checks {
            checks.start();
        }
    }

    /// Wakes the task of the checks, because one is due.
    fn wake_checks(&self) {
        if let Some(checks) = &self.checks {
            checks.wake();
        }
    }

    /// Returns the time of an instant, in nanoseconds from the origin.
    #[inline]
    pub(super) fn time(&self, at: Instant) -> u64 {
        nanos_since(self.origin, at)
    }

    /// Chooses an endpoint and begins a call.
    ///
    /// Without `now`, it reads the clock while an endpoint is ejected.
    #[inline]
    pub(super) fn choose(&self, tried: Tried, now: Option<Instant>) -> Option<Entry<S>> {
        let mut list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        if list.ends < u64::MAX {
            let now = now.unwrap_or_else(Instant::now);
            if list.ends <= self.time(now) {
                drop(list);
                self.end_ejections(now);
                list = self.list.read().unwrap_or_else(PoisonError::into_inner);
            }
        }
        list.choose(tried)
    }

    /// Ends the ejections that are over, unless another thread changes the endpoints meanwhile.
    ///
    /// The list is then used as it is. A later call ends the ejections.
    #[cold]
    fn end_ejections(&self, now: Instant) {
        let members = match self.members.try_lock() {
            Ok(members) => members,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        if members.iter().any(|it| it.health.out_until().is_some_and(|end| end <= now)) {
            self.change_locked(members, now, |_, _| {});
        }
    }

    /// Changes the endpoints, and then makes the list anew. Reports what happened afterwards.
    fn change<T>(
        &self,
        now: Instant,
        change: impl FnOnce(&mut Vec<Member<S>>, &mut Vec<Transition>) -> T,
    ) -> T {
        self.change_locked(lock(&self.members), now, change)
    }

    fn change_locked<T>(
        &self,
        mut members: MutexGuard<'_, Vec<Member<S>>>,
        now: Instant,
        change: impl FnOnce(&mut Vec<Member<S>>, &mut Vec<Transition>) -> T,
    ) -> T {
        let mut transitions = Vec::new();
        for member in members.iter_mut() {
            if member.health.come_back(now) {
                member.came_back("ejection_ended", &self.config, now, &mut transitions);
            }
        }
        let value = change(&mut members, &mut transitions);
        let (list, endpoints) = (self.list_of(&members), members.len());
        let usable = list.usable;
        // That all of them are drained is wanted. That there are none may be a mistake.
        let is_wanted = endpoints > 0 && members.iter().all(|it| it.health.is_draining());
        let old = {
            let mut place = self.list.write().unwrap_or_else(PoisonError::into_inner);
            mem::replace(&mut *place, list)
        };
        drop(members);
        // After the locks, because these run code of the user.
        for it in &transitions {
            self.report(it);
        }
        if old.usable > 0 && usable == 0 && !is_wanted {
            self.config.reporter.get().emit(Event::NoEndpointUsable { endpoints });
        }
        value
    }

    fn report(&self, Transition { endpoint, change }: &Transition) {
        let address = format_args!("{}", endpoint.address());
        let event = match *change {
            Change::Out { reason, out_for } => Event::EndpointOut { address, reason, out_for },
            Change::Back { reason } => Event::EndpointBack { address, reason },
        };
        // A service that panics can be the reason. A second panic, of an address that is printed,
        // would abort the process.
        _ = catch_unwind(AssertUnwindSafe(|| self.config.reporter.get().emit(event)));
    }

    /// Returns `true` if the endpoint is out because of its checks.
    pub(super) fn is_check_failed(&self, endpoint: &Endpoint) -> bool {
        let mut members = lock(&self.members);
        find(&mut members, endpoint.number).is_some_and(|it| it.health.is_check_failed())
    }

    /// Notes the result of a check, which has ended.
    pub(super) fn checked(&self, endpoint: &Endpoint, passed: bool) {
        let now = Instant::now();
        let (is_due, has_changed) = {
            let mut members = lock(&self.members);
            let Some(member) = find(&mut members, endpoint.number) else { return };
            let has_changed = member.health.checked(passed, &self.config, now);
            if !has_changed && member.health.take_recovery(&self.config) {
                // It failed, but not for so long, or not alone, that it was out.
                endpoint.forget_load(now);
            }
            (member.next_check <= now, has_changed)
        };
        if is_due {
            self.wake_checks();
        }
        if !has_changed {
            return;
        }
        self.change(now, |members, transitions| {
            if let Some(member) = find(members, endpoint.number) {
                if passed {
                    member.came_back("check", &self.config, now, transitions);
                } else {
                    let change = Change::Out { reason: "check", out_for: None };
                    transitions.push(member.transition(change));
                }
            }
        });
    }

    /// Spreads the checks that are due over the interval, because their task begins.
    pub(super) fn spread_checks(&self, now: Instant) {
        let mut members = lock(&self.members);
        if members.len() > 1 {
            for member in members.iter_mut().filter(|it| it.next_check <= now) {
                let spread = self.config.check_interval;
                let wait = draw(|rng| between(Duration::ZERO, spread, rng));
                member.next_check = clock::after(now, wait);
            }
        }
    }

    /// Returns the checks to run now, and the instant of the next one.
    pub(super) fn due(&self, now: Instant, rate: &mut CheckRate) -> DueChecks<S> {
        let mut members = lock(&self.members);
        let (mut due, count) = (Vec::new(), members.len());
        for member in members.iter_mut().filter(|it| it.next_check <= now) {
            if !member.health.is_draining() && member.check.strong_count() == 0 {
                let interval = self.config.check_interval;
                if !rate.admit(now, interval, count) {
                    let wait = draw(|rng| between(Duration::ZERO, interval, rng));
                    member.next_check = clock::after(now, wait);
                    continue;
                }
                let spread = interval / 10;
                let (least, most) = (interval - spread, interval.saturating_add(spread));
                member.next_check = clock::after(now, draw(|rng| between(least, most, rng)));
                let running = Arc::new(());
                member.check = Arc::downgrade(&running);
                due.push(DueCheck { entry: member.entry.clone(), running });
            }
        }
        // The task is woken for those that are late.
        let next = members.iter().map(|it| it.next_check).filter(|it| *it > now).min();
        (due, next)
    }

    /// Removes an endpoint, unless `commit` returns `false`, which runs under the lock of the set.
    pub(super) fn remove(&self, number: u64, commit: impl FnOnce() -> bool) -> bool {
        let removed = self.change(Instant::now(), |members, _| {
            let place = members.iter().position(|it| it.entry.endpoint.number == number)?;
            if !commit() {
                return None;
            }
            let member = members.remove(place);
            let mut removed = lock(&self.removed);
            removed.retain(|it| it.strong_count() > 0);
            removed.push(Arc::downgrade(&member.entry.endpoint));
            Some(member)
        });
        // It is dropped after the lock, because its service is dropped with it.
        removed.is_some()
    }

    /// Returns the number of calls of the endpoints that were removed.
    pub(super) fn active_at_removed(&self) -> u32 {
        // The last owner must not be dropped under the lock, because an address is of the user.
        let removed: Vec<_> = lock(&self.removed).iter().filter_map(Weak::upgrade).collect();
        removed.iter().map(|it| it.active()).sum()
    }

    /// Begins or ends the drain of an endpoint. Returns `false` if nothing has changed.
    pub(super) fn drain(&self, number: u64, draining: bool) -> bool {
        let now = Instant::now();
        let has_changed = self.change(now, |members, _| {
            let Some(member) = find(members, number) else { return false };
            let has_changed = member.health.drain(draining);
            if has_changed && !draining {
                let forgets_at = member.health.forgets_at(&self.config);
                member.entry.endpoint.come_back(forgets_at, now);
                member.next_check = now;
            }
            has_changed
        });
        if has_changed && !draining {
            self.wake_checks();
        }
        has_changed
    }

    /// Returns the endpoints and their status.
    pub(super) fn endpoints(&self) -> Vec<(Arc<Endpoint>, EndpointStatus)> {
        let now = Instant::now();
        let ends = self.list.read().unwrap_or_else(PoisonError::into_inner).ends;
        if ends <= self.time(now) {
            self.change(now, |_, _| {});
        }
        let members = lock(&self.members);
        let all = members.iter();
        all.map(|it| (Arc::clone(&it.entry.endpoint), it.health.status())).collect()
    }
}

impl<S: Send> Set for Shared<S> {
    #[cold]
    fn eject(&self, endpoint: &Endpoint, now: Instant) {
        let number = endpoint.number;
        // Those that are over would count in the share until the next call.
        self.end_ejections(now);
        let out_for = {
            let mut members = lock(&self.members);
            let others = members.iter().any(|it| it.is_usable_without(number));
            let may_eject = others && self.may_eject(&members, endpoint);
            let member = find(&mut members, number).filter(|it| may_eject && it.is_usable());
            let Some(member) = member else { return };
            let out_for = member.health.eject(&self.config, now);
            endpoint.forget_failures(None);
            out_for
        };
        self.change(now, |members, transitions| {
            if let Some(member) = find(members, number) {
                let change = Change::Out { reason: "consecutive_failures", out_for: Some(out_for) };
                transitions.push(member.transition(change));
            }
        });
    }

    #[cold]
    fn served(&self, endpoint: &Endpoint, now: Instant) {
        let mut members = lock(&self.members);
        let member = find(&mut members, endpoint.number);
        if let Some(member) = member.filter(|it| it.health.out_until().is_none()) {
            member.health.succeeded(&self.config, now);
            endpoint.set_forgets_at(member.health.forgets_at(&self.config));
        }
    }

    fn long(&self) -> Option<Duration> {
        lock(&self.members).iter().filter_map(|it| it.entry.endpoint.long()).max()
    }

    fn relieves(&self, endpoint: &Endpoint) -> bool {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        let is_in_use = list.endpoints.iter().any(|it| it.endpoint.number == endpoint.number);
        !list.next.is_empty() || !is_in_use
    }

    fn renew(&self, endpoint: &Endpoint, renewals: u32) {
        let slot = {
            let mut members = lock(&self.members);
            find(&mut members, endpoint.number).map(|it| Arc::clone(&it.entry.slot))
        };
        if let Some(slot) = slot {
            slot.renew(renewals);
        }
    }
}

impl<S> Drop for Shared<S> {
    fn drop(&mut self) {
        if let Some(checks) = &self.checks {
            checks.end();
        }
    }
}

impl<S> fmt::Debug for Shared<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints = lock(&self.members).len();
        f.debug_struct("Shared")
            .field("config", &self.config)
            .field("endpoints", &endpoints)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
