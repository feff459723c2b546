//! One endpoint, and the accounts of its calls.

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    load::{Load, Ticks, micros},
    streak::Streak,
};
use crate::{
    Fault, Outcome,
    call::{
        account::{Account, End, How, Stamp},
        clock::{self, nanos_since},
        ended_call::{Known, Measured},
        patience::{self, Cut, Patience},
    },
};

/// The values that each call reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) max_concurrent: u32,
    pub(super) consecutive_failures: u32,
    /// The instant from which times are measured.
    pub(super) origin: Instant,
}

/// One endpoint, whatever its service is.
///
/// Its times are in nanoseconds from the origin.
pub(super) struct Endpoint {
    /// The number of the endpoint in this process.
    pub(super) number: u64,
    /// A short number, by which a call remembers the endpoint. It is not zero.
    ///
    /// Two endpoints may have the same. One of them is then avoided for nothing.
    pub(super) mark: u16,
    pub(super) group: u8,
    address: Arc<dyn fmt::Display + Send + Sync>,
    limits: Limits,
    /// Calls that have begun.
    begun: AtomicU64,
    /// Calls that have ended. The others are under way.
    ended: AtomicU64,
    failures: AtomicU64,
    streak: Streak,
    /// The time from which a success forgets an ejection, or `u64::MAX`. An earlier one takes no
    /// lock.
    forgets_at: AtomicU64,
    load: Load,
    /// The time at which it was back. Earlier calls say nothing.
    back_at: AtomicU64,
    patience: Patience,
    set: Weak<dyn Set>,
}

/// The set of an endpoint, whatever its services are.
pub(super) trait Set: Send + Sync {
    /// Takes an endpoint out after its failures, unless too many are out already.
    fn eject(&self, endpoint: &Endpoint, now: Instant);

    /// Notes a success of an endpoint that was ejected before.
    fn served(&self, endpoint: &Endpoint, now: Instant);

    /// Returns the run time that is long even for the slowest endpoint, or `None` if none has
    /// responded.
    fn long(&self) -> Option<Duration>;

    /// Returns `true` if other endpoints get the calls to come, even if this one fails on.
    fn relieves(&self, endpoint: &Endpoint) -> bool;

    /// Makes the service of an endpoint anew, unless another call has done so.
    fn renew(&self, endpoint: &Endpoint, renewals: u32);
}

/// Returns a number for another endpoint of the process.
pub(super) fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Endpoint {
    pub(super) fn new(
        number: u64,
        address: Arc<dyn fmt::Display + Send + Sync>,
        group: u8,
        limits: Limits,
        set: Weak<dyn Set>,
    ) -> Self {
        Self {
            number,
            mark: (number % u64::from(u16::MAX)) as u16 + 1,
            group,
            address,
            limits,
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            streak: Streak::default(),
            forgets_at: AtomicU64::new(u64::MAX),
            load: Load::default(),
            back_at: AtomicU64::new(0),
            patience: Patience::default(),
            set,
        }
    }

    pub(super) fn address(&self) -> &dyn fmt::Display {
        &*self.address
    }

    /// Makes the service anew, because one that reported an error instead of readiness is dead.
    #[cold]
    pub(super) fn renew(&self, renewals: u32) {
        if let Some(set) = self.set.upgrade() {
            set.renew(self, renewals);
        }
    }

    /// Begins a call, unless there are too many.
    #[inline]
    pub(super) fn begin(&self) -> bool {
        if self.limits.max_concurrent == u32::MAX {
            self.begun.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        let one_more = |begun: u64| {
            // If calls have begun and ended meanwhile, the update fails and is tried again.
            let active = begun.saturating_sub(self.ended.load(Ordering::Acquire));
            (active < u64::from(self.limits.max_concurrent)).then_some(begun + 1)
        };
        self.begun.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    #[inline]
    pub(super) fn active(&self) -> u32 {
        // In this order, because a call that has ended has begun.
        let ended = self.ended.load(Ordering::Acquire);
        (self.begun.load(Ordering::Relaxed) - ended) as u32
    }

    pub(super) fn calls(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Returns `true` if another call would probably end sooner here than at the other endpoint.
    ///
    /// If one of them has hardly ended a call yet, they are compared by their calls under way, and
    /// by their results since the last response.
    #[inline]
    pub(super) fn is_better(&self, other: &Self) -> bool {
        let (mine, others) = (u64::from(self.active()) + 1, u64::from(other.active()) + 1);
        match self.load.means(&other.load) {
            Some((mean, other)) => mine * mean <= others * other,
            None => self.streak.weighted(mine) <= other.streak.weighted(others),
        }
    }

    /// Returns `true` if no more calls are under way here than at the other endpoint.
    #[inline]
    pub(super) fn is_as_idle(&self, other: &Self) -> bool {
        self.active() <= other.active()
    }

    /// Returns the mean of its recent response times.
    pub(super) fn response_time(&self, now: Instant) -> Option<Duration> {
        self.load.mean(Ticks::of(self.time(now))).map(Duration::from_micros)
    }

    /// Returns the run time from which a call has run longer than its responses take, or `None`
    /// before the first response.
    pub(super) fn long(&self) -> Option<Duration> {
        self.patience.known_long()
    }

    /// Forgets how slow it was, and how often it failed, so that it gets its share of calls again.
    pub(super) fn come_back(&self, forgets_at: Option<Instant>, now: Instant) {
        self.forget_load(now);
        self.forget_failures(forgets_at);
    }

    /// Forgets how slow it was, even of calls that are under way, and its last results.
    pub(super) fn forget_load(&self, now: Instant) {
        self.back_at.store(self.time(now), Ordering::Relaxed);
        self.load.forget();
        self.streak.end();
    }

    /// Returns the time of an instant.
    #[inline]
    pub(super) fn time(&self, at: Instant) -> u64 {
        nanos_since(self.limits.origin, at)
    }

    fn instant(&self, time: u64) -> Instant {
        clock::after(self.limits.origin, Duration::from_nanos(time))
    }

    /// Forgets its failures, and notes from when on a success forgets an ejection.
    pub(super) fn forget_failures(&self, forgets_at: Option<Instant>) {
        self.streak.end();
        self.set_forgets_at(forgets_at);
    }

    pub(super) fn set_forgets_at(&self, forgets_at: Option<Instant>) {
        let time = forgets_at.map_or(u64::MAX, |at| self.time(at));
        self.forgets_at.store(time, Ordering::Relaxed);
    }
}

/// The times of a call that has ended, in nanoseconds.
#[derive(Clone, Copy)]
struct Timing {
    took: u64,
    now: u64,
    /// It began before the endpoint was back, so it says nothing of the endpoint as it is now.
    is_old: bool,
}

impl Endpoint {
    #[inline]
    fn end(&self, measured: Measured, end: &End) -> Timing {
        let (took, head) = (measured.took(), measured.now());
        let now = if end.is_at_head() { head } else { self.time(Instant::now()) };
        Timing { took, now, is_old: self.is_old(took, head) }
    }

    /// Returns `true` for a call that began before the endpoint was back.
    #[inline]
    fn is_old(&self, took: u64, ended: u64) -> bool {
        ended.saturating_sub(took) < self.back_at.load(Ordering::Relaxed)
    }

    #[inline]
    fn responded(&self, call: Timing) {
        self.had_head(call);
        if !call.is_old {
            self.succeeded(call.now);
        }
    }

    /// Includes a response whose head was good.
    #[inline]
    fn had_head(&self, Timing { took, now, is_old }: Timing) {
        self.patience.heard();
        if !is_old {
            let took = micros(took);
            self.patience.learn_micros(took);
            self.load.responded(took, Ticks::of(now));
        }
    }

    /// Accounts for a response whose reader left after a read that had been pending for `waited`.
    ///
    /// The head was good. If the reader waited longer than responses take, the body may hang, or
    /// there may be nothing to send yet. It is then neither a success nor a failure.
    fn left(&self, call: Timing, waited: Duration) {
        let is_long = waited >= self.patience.long(patience::FLOOR);
        self.had_head(call);
        if !call.is_old && !is_long {
            self.succeeded(call.now);
        }
    }

    #[inline]
    fn succeeded(&self, now: u64) {
        self.streak.end();
        if now >= self.forgets_at.load(Ordering::Relaxed) {
            if let Some(set) = self.set.upgrade() {
                set.served(self, self.instant(now));
            }
        }
    }

    #[cold]
    fn failed(&self, Timing { took, now, is_old }: Timing) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        if is_old {
            return;
        }
        self.load.failed(micros(took), Ticks::of(now));
        // If too many are out, as many failures again are another attempt.
        if self.streak.failed() % self.limits.consecutive_failures == 0 {
            if let Some(set) = self.set.upgrade() {
                // The end of a body that was read ahead is later than the head.
                set.eject(self, Instant::now());
            }
        }
    }

    /// Accounts for a result that says nothing, such as a request that was given back.
    #[cold]
    fn ignored(&self, Timing { took, now, is_old }: Timing) {
        if !is_old && self.streak.ignored() {
            self.load.failed(micros(took), Ticks::of(now));
        }
    }

    /// Accounts for a call that was dropped before its response.
    ///
    /// It has failed only if nobody had a response for a while, and if it ran longer than responses
    /// take. If the endpoint has never responded, those of the others tell how long that is.
    #[cold]
    fn cut(&self, call: Timing) {
        let (ran, now) = (Duration::from_nanos(call.took), Duration::from_nanos(call.now));
        let is_unknown = ran < patience::FLOOR && self.patience.known_long().is_none();
        let others = if is_unknown { self.set.upgrade().and_then(|set| set.long()) } else { None };
        let floor = others.map_or(patience::FLOOR, |long| long.min(patience::FLOOR));
        if self.patience.cut(Cut { ran, now }, patience::SILENCE, floor) {
            self.failed(call);
        } else if !call.is_old {
            self.load.left(micros(call.took), Ticks::of(call.now));
        }
    }
}

impl Endpoint {
    /// Settles a successful call that completed on its first poll, and that nobody else settles.
    ///
    /// Returns `false`, and does nothing, if the call must read the clock first.
    #[inline]
    pub(super) fn responded_at_once(&self) -> bool {
        let is_least = self.load.is_least() && self.patience.is_least();
        if !is_least || self.forgets_at.load(Ordering::Relaxed) < u64::MAX {
            return false;
        }
        self.ended.fetch_add(1, Ordering::Release);
        self.patience.heard();
        self.streak.end();
        true
    }

    /// Settles a call that nobody else settles. It has ended `now`.
    #[inline]
    pub(super) fn settle_known(&self, took: u64, now: u64, known: Known) {
        self.ended.fetch_add(1, Ordering::Release);
        let call = Timing { took, now, is_old: self.is_old(took, now) };
        match known {
            Known::Good => self.responded(call),
            Known::Failed => self.failed(call),
            Known::Dropped => self.cut(call),
            Known::Ignored => self.ignored(call),
        }
    }
}

/// Settles a call. The call was under way until now.
impl Account for Endpoint {
    fn settle(&self, stamp: Stamp, end: &End) {
        self.ended.fetch_add(1, Ordering::Release);
        let measured = Measured::of(stamp);
        let (call, known) = (|| self.end(measured, end), measured.known());
        match end.how {
            How::Complete(outcome, _) if outcome.is_response() => self.responded(call()),
            // The time of the caller who reads the response is over.
            How::Complete(Outcome::Failure(Fault::TimedOut), _)
                if known != Known::Dropped && stamp.was_cut_by_caller(end) =>
            {
                self.left(call(), end.waited);
            }
            How::Complete(Outcome::Failure(_), _) | How::Panicked => self.failed(call()),
            How::DroppedBetweenReads => self.responded(call()),
            How::DroppedWhileReading if known != Known::Dropped => self.left(call(), end.waited),
            How::Complete(Outcome::Ignored, _) if known != Known::Dropped => self.ignored(call()),
            How::Complete(..) | How::DroppedWhileReading => self.cut(call()),
        }
    }

    fn is_relieved(&self) -> bool {
        self.set.upgrade().is_some_and(|set| set.relieves(self))
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("address", &format_args!("{}", self.address))
            .field("active", &self.active())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
