//! An entry of the cache, and the decision what a caller gets of it. Both take the time.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::config::Times;
use crate::call::{clock::nanos, degraded::Reason, lock::lock};

/// The response of a key, or the note that its responses cannot be shared.
#[derive(Debug)]
pub(super) struct Entry<V> {
    /// `None` if responses of the key cannot be shared.
    value: Option<V>,
    /// The bytes of the entry with its key.
    bytes: usize,
    stored: Instant,
    /// The age up to which it is fresh.
    fresh_for: Duration,
    /// The generation of its key when its call began.
    generation: u64,
    /// It may be given when it is no longer fresh.
    is_given_stale: AtomicBool,
    /// The age up to which it is given without a call, in nanoseconds. Zero if no call has failed.
    held_until: AtomicU64,
    /// The reason why the last call for the key has failed.
    failed: Mutex<Option<Reason>>,
}

/// The decision about a caller that asks for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// The entry is fresh.
    Hit,
    /// The entry is given although it is stale, and renewed by a call for which no caller waits.
    Renew,
    /// The entry is given although it is stale, because a call has just failed.
    HeldOff,
    /// The service must be asked. If that fails, the entry is given.
    AskOrStale,
    /// The service must be asked.
    Ask,
    /// The service must be asked by each caller, because the response cannot be shared.
    AskAlone,
}

impl<V> Entry<V> {
    pub(super) fn kept(
        value: V,
        bytes: usize,
        generation: u64,
        now: Instant,
        fresh_for: Duration,
    ) -> Self {
        Self::made(Some(value), bytes, generation, now, fresh_for)
    }

    /// Creates the note that the responses of a key cannot be shared, for some time.
    pub(super) fn not_shareable(
        bytes: usize,
        generation: u64,
        now: Instant,
        until: Duration,
    ) -> Self {
        Self::made(None, bytes, generation, now, until)
    }

    fn made(
        value: Option<V>,
        bytes: usize,
        generation: u64,
        stored: Instant,
        fresh_for: Duration,
    ) -> Self {
        let (held_until, failed) = (AtomicU64::new(0), Mutex::new(None));
        let is_given_stale = AtomicBool::new(true);
        Self { value, bytes, stored, fresh_for, generation, is_given_stale, held_until, failed }
    }

    /// Forbids that it is given when it is no longer fresh.
    pub(super) fn given_stale(self, is_given_stale: bool) -> Self {
        Self { is_given_stale: is_given_stale.into(), ..self }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn value(&self) -> Option<&V> {
        self.value.as_ref()
    }

    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.stored)
    }

    /// Returns the time for which it stays fresh, or the time since it was, as a negative number.
    #[inline]
    pub(super) fn left(&self, age: Duration) -> i64 {
        let fresh_for = self.fresh_for;
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        match fresh_for.checked_sub(age) {
            Some(left) => seconds(left),
            None => -seconds(age - fresh_for),
        }
    }

    /// Decides what a caller gets at this age.
    #[inline]
    pub(super) fn decide(&self, age: Duration, times: &Times) -> Decision {
        if self.value.is_none() {
            return if age < self.fresh_for { Decision::AskAlone } else { Decision::Ask };
        }
        if age < self.fresh_for {
            return Decision::Hit;
        }
        if !self.is_given_stale.load(Ordering::Relaxed) {
            return Decision::Ask;
        }
        self.decide_stale(age, times)
    }

    #[cold]
    fn decide_stale(&self, age: Duration, times: &Times) -> Decision {
        let stale_for = age - self.fresh_for;
        let if_error = stale_for < times.if_error;
        let held = nanos(age) < self.held_until.load(Ordering::Relaxed);
        if held && (if_error || stale_for < times.while_revalidate) {
            Decision::HeldOff
        } else if stale_for < times.while_revalidate {
            Decision::Renew
        } else if if_error {
            Decision::AskOrStale
        } else {
            Decision::Ask
        }
    }

    /// Returns `true` if the caller is the one that asks, after calls have failed.
    ///
    /// The others get the entry while it waits, up to `hold_off`. Before the first failure, this
    /// is `true` for each caller, and they share the call.
    pub(super) fn claim_try(&self, now: Instant, hold_off: Duration) -> bool {
        let until = self.held_until.load(Ordering::Relaxed);
        if until == 0 {
            return true;
        }
        let age = self.age(now);
        let next = nanos(age.saturating_add(hold_off));
        nanos(age) >= until
            && self
                .held_until
                .compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// Gives the entry without a call from now on for this time, because a call has failed.
    pub(super) fn hold_off(&self, now: Instant, time: Duration, reason: Reason) {
        let until = nanos(self.age(now).saturating_add(time)).max(1);
        self.held_until.fetch_max(until, Ordering::Relaxed);
        let before = lock(&self.failed).replace(reason);
        drop(before);
    }

    /// Lets all callers ask again, because a call has not failed.
    pub(super) fn end_hold_off(&self) {
        self.held_until.store(0, Ordering::Relaxed);
        let before = lock(&self.failed).take();
        drop(before);
    }

    /// Notes that the service has responded since, so that it is no longer given when it is stale.
    ///
    /// The newer response may be one that is not kept.
    pub(super) fn mark_outdated(&self) {
        self.is_given_stale.store(false, Ordering::Relaxed);
    }

    /// Returns the reason why the last call for the key has failed, if one has.
    pub(super) fn failed(&self) -> Option<Reason> {
        lock(&self.failed).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Fault, call::reserve::Reserve};

    const SECOND: Duration = Duration::from_secs(1);

    fn reason() -> Reason {
        Reason::Failed(Fault::Transient)
    }

    fn times(while_revalidate: u32, if_error: u32) -> Times {
        Times {
            ttl: 10 * SECOND,
            while_revalidate: while_revalidate * SECOND,
            if_error: if_error * SECOND,
            hold_off: SECOND,
            patience: None,
            reserve: Reserve::up_to(SECOND),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_is_fresh_then_renewed_then_given_on_failure_then_nothing() {
        let start = Instant::now();
        let entry = Entry::kept((), 1, 0, start, 10 * SECOND);
        let times = times(5, 20);
        let at = |seconds: u32| entry.decide(seconds * SECOND, &times);
        assert_eq!([at(0), at(9)], [Decision::Hit; 2]);
        assert_eq!([at(10), at(14)], [Decision::Renew; 2]);
        assert_eq!([at(15), at(29)], [Decision::AskOrStale; 2]);
        assert_eq!([at(30), at(1_000)], [Decision::Ask; 2]);
        assert_eq!(entry.left(4 * SECOND), 6);
        assert_eq!(entry.left(14 * SECOND), -4);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_one_caller_a_second_asks() {
        let start = Instant::now();
        let entry = Entry::kept((), 1, 0, start, Duration::ZERO);
        let times = times(0, 20);
        assert!(entry.claim_try(start, SECOND) && entry.claim_try(start, SECOND));
        entry.hold_off(start, SECOND, reason());
        assert_eq!(entry.decide(Duration::ZERO, &times), Decision::HeldOff);
        let later = start + SECOND;
        assert_eq!(entry.decide(SECOND, &times), Decision::AskOrStale);
        assert!(entry.claim_try(later, SECOND) && !entry.claim_try(later, SECOND));
        assert_eq!(entry.decide(SECOND, &times), Decision::HeldOff);
        // A hold-off never outlives the time of the entry.
        entry.hold_off(later, 100 * SECOND, reason());
        assert_eq!(entry.decide(20 * SECOND, &times), Decision::Ask);
    }
}
