//! Rules that tell a service that hangs from a caller with too little time.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::restore::Restore;

/// Returns `true` if a service reported a timeout only because the caller's time was almost over.
///
/// A service that knows the caller's deadline responds a little before it.
pub(crate) fn was_cut_short(began: Option<Instant>, deadline: Option<Instant>) -> bool {
    let Some(deadline) = deadline else { return false };
    let now = Instant::now();
    let whole = deadline.saturating_duration_since(began.unwrap_or(now));
    // The margin of five servers in a row. Each keeps a twentieth of the time for its response,
    // but at least 1 ms and at most 100 ms.
    let kept = (whole / 4).clamp(Duration::from_millis(5), Duration::from_millis(500));
    deadline.saturating_duration_since(now) <= kept
}

/// The minimum run time of a cut call that counts, if no response and no limit says otherwise.
pub(crate) const FLOOR: Duration = Duration::from_secs(2);

/// The longest silence after which cut calls count.
///
/// It is the silence where no window of time is set. A longer window does not lengthen it, because
/// the breaker would then see a hang only after that window.
pub(crate) const SILENCE: Duration = Duration::from_secs(10);

/// The shortest silence. A service with few calls often has no response for a shorter time.
const SHORTEST_SILENCE: Duration = Duration::from_secs(1);

/// Returns the silence after which cut calls count, for a window of this length.
pub(crate) fn silence(window: Duration) -> Duration {
    window.clamp(SHORTEST_SILENCE, SILENCE)
}

/// A call reads the clock a little after the limit of its stack has begun.
const SLACK: Duration = Duration::from_micros(500);

/// Returns the run time from which a call has run for the whole limit of its stack.
pub(crate) fn whole(own_limit: Duration) -> Duration {
    // Not one of a tiny limit.
    own_limit - if own_limit >= 4 * SLACK { SLACK } else { own_limit / 4 }
}

thread_local! {
    static ENDED_BY: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// Notes that another limit of this length does not end the calls that are dropped meanwhile.
///
/// The limit of a server and the total timeout of a stack beneath it may be equal. A stack that was
/// called later is then dropped with most of its time left.
pub(crate) fn not_ending(
    limit: Duration,
    end: Option<Instant>,
) -> Option<Restore<Option<Duration>>> {
    if ENDED_BY.get() != Some(limit) {
        return None;
    }
    let left = end.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()));
    (left > limit / 16).then(|| ending(None))
}

/// Notes the limit of a stack or a server, which ends the calls that are dropped meanwhile.
pub(crate) fn ending(limit: Option<Duration>) -> Restore<Option<Duration>> {
    Restore::after_setting(&ENDED_BY, limit)
}

/// Returns the run time from which a call that is dropped has failed for the limit of its stack.
///
/// If that limit ends the call now, it is `long`, but at least half of the limit and at most 15/16
/// of it. The limit also covers the wait for readiness, the time in a queue and earlier attempts. A
/// call that could not have had its response in the rest says nothing.
pub(crate) fn whole_at_drop(own_limit: Duration, long: Duration) -> Duration {
    if ENDED_BY.get() == Some(own_limit) {
        long.clamp(own_limit / 2, own_limit - own_limit / 16)
    } else {
        own_limit
    }
}

/// Returns `true` if the limit of the stack itself ends a call, and not a deadline of its caller.
///
/// `time` is the time from the beginning of the call to its deadline.
pub(crate) fn is_own(time: Duration, own_limit: Option<Duration>) -> bool {
    own_limit.is_some_and(|limit| time >= whole(limit))
}

thread_local! {
    static LIMIT: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// Sets the limit of the calls of the stacks that are put around services meanwhile.
///
/// A server does so, because the limit of its stack is its own.
pub(crate) fn limiting(limit: Option<Duration>) -> Restore<Option<Duration>> {
    Restore::after_setting(&LIMIT, limit)
}

/// Returns the limit of what surrounds the stack that is put around a service.
///
/// `Duration::MAX` is no limit.
pub(crate) fn limit_around() -> Option<Duration> {
    LIMIT.get().filter(|limit| *limit < Duration::MAX)
}

/// The time that responses lately took, and the time since when calls are cut instead.
///
/// Callers decide how long they wait. A rule that only compares durations can therefore be moved by
/// callers in a hurry. A call that was cut from outside counts as a failure only if it ran longer
/// than responses take, and if for a while no call was responded to and others that ran as long
/// were cut.
///
/// Both words are written without a lock. An update of the estimate that another one overwrites is
/// lost, which does not matter to an average.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    /// The mean (32 bits) and the mean deviation (32 bits) in microseconds. Zero before the first
    /// response that took a time.
    estimate: AtomicU64,
    /// The first cut of the silence in milliseconds from the origin (40 bits), and the time from it
    /// to the last one (24 bits). Zero if there is no silence.
    silence: AtomicU64,
}

/// The number of bits of the time between the first and the last cut, which are 4.6 hours.
const SPAN_BITS: u32 = 24;

const MOST_SPAN: u64 = (1 << SPAN_BITS) - 1;

impl Patience {
    /// Ends the silence, because a response has arrived.
    #[inline]
    pub(crate) fn heard(&self) {
        if self.silence.load(Ordering::Relaxed) != 0 {
            self.silence.store(0, Ordering::Relaxed);
        }
    }

    /// Includes the time that a response took to its head.
    ///
    /// A new value has a weight of a sixteenth. It counts at most as four times the run time that
    /// was [`long`](Self::long) before, or as a millisecond if that is more. One response that
    /// takes an hour thus does not hide a hang, and a dependency that becomes slow is still known
    /// after a few responses.
    #[inline]
    pub(crate) fn learn(&self, took: Duration) {
        self.learn_micros(micros(took));
    }

    /// Includes a time in microseconds, as [`learn`](Self::learn) does. It is less than 2^32.
    #[inline]
    pub(crate) fn learn_micros(&self, took: u64) {
        let took = took.max(1);
        let (mean, deviation) = match self.estimate.load(Ordering::Relaxed) {
            0 => (took, took / 2),
            known => {
                let (mean, deviation) = (known >> 32, known & MOST);
                let took = took.min((4 * long(known)).max(1_000));
                (moved(mean, took), moved(deviation, took.abs_diff(mean)))
            }
        };
        self.estimate.store(mean << 32 | deviation, Ordering::Relaxed);
    }

    /// Returns `true` if another response at once would change nothing.
    #[inline]
    pub(crate) fn is_least(&self) -> bool {
        // A mean of a microsecond without a deviation.
        self.estimate.load(Ordering::Relaxed) == 1 << 32
    }

    /// Returns the run time from which a call has run longer than responses take.
    ///
    /// Returns `floor` before the first response.
    pub(crate) fn long(&self, floor: Duration) -> Duration {
        self.known_long().unwrap_or(floor)
    }

    /// Returns the run time from which a call has run longer than responses take, or `None` before
    /// the first response.
    #[inline]
    pub(crate) fn known_long(&self) -> Option<Duration> {
        match self.estimate.load(Ordering::Relaxed) {
            0 => None,
            known => Some(Duration::from_micros(long(known))),
        }
    }

    /// Notes that a call was cut. Returns `true` if that counts as a failure.
    ///
    /// It does if the call ran long, and if the silence has lasted for `silence`. The silence
    /// begins with the first such cut after the last response, and not with the response.
    /// Otherwise a time without calls would be taken for a time without responses. For the same
    /// reason it begins anew with a call that was begun so long after the last cut. A call that did
    /// not run long could not have had a response yet, and says nothing.
    pub(crate) fn cut(&self, cut: Cut, silence: Duration, floor: Duration) -> bool {
        cut.ran >= self.long(floor) && self.unanswered(cut, silence)
    }

    /// Notes that a call had no response, however long it ran. Returns `true` if that counts as a
    /// failure.
    ///
    /// It does in silence, like a [`cut`](Self::cut) that ran long.
    fn unanswered(&self, cut: Cut, silence: Duration) -> bool {
        let (began, now) = (millis(cut.now.saturating_sub(cut.ran)), millis(cut.now).max(1));
        let silence = millis(silence);
        let word = self.silence.load(Ordering::Relaxed);
        let first = word >> SPAN_BITS;
        let last = first + (word & MOST_SPAN);
        let lasts = word != 0 && began.saturating_sub(last) < silence;
        let (first, last) = if lasts { (first, last.max(now)) } else { (now, now) };
        // A longer silence is as good as one of 4.6 hours.
        let first = first.max(last.saturating_sub(MOST_SPAN));
        let new = first << SPAN_BITS | (last - first);
        let relaxed = Ordering::Relaxed;
        // A response meanwhile ends the silence. A cut meanwhile is as good as this one.
        let noted = self.silence.compare_exchange(word, new, relaxed, relaxed);
        lasts && noted != Err(0) && now.saturating_sub(first) >= silence
    }

    /// Notes that a request was given back. Returns `true` if that counts as a failure.
    ///
    /// It does in silence, like a [`cut`](Self::cut) that ran long. The silence must be so long
    /// that others could have had a response.
    pub(crate) fn given_back(&self, cut: Cut, silence: Duration) -> bool {
        self.unanswered(cut, silence.max(self.long(Duration::ZERO)))
    }
}

/// A call that was cut from outside, by its caller or by a deadline that its caller set, or whose
/// request was given back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// The time for which it ran.
    pub(crate) ran: Duration,
    /// The time from the origin.
    pub(crate) now: Duration,
}

/// The largest mean and the largest deviation, in microseconds. It is about 71 minutes.
const MOST: u64 = 0xFFFF_FFFF;

/// Returns the run time that is long for an estimate, in microseconds.
fn long(known: u64) -> u64 {
    let (mean, deviation) = (known >> 32, known & MOST);
    mean + (4 * deviation).max(mean / 4)
}

/// Returns an average after a new value. Both are less than 2^32.
fn moved(average: u64, value: u64) -> u64 {
    average.wrapping_add_signed((value as i64 - average as i64) >> 4)
}

/// Returns at most about [`MOST`].
fn micros(time: Duration) -> u64 {
    let seconds = time.as_secs().min(MOST / 1_000_000 - 1);
    seconds * 1_000_000 + u64::from(time.subsec_micros())
}

/// Returns at most 2^40 - 1 milliseconds, which are 34 years.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).min((1 << 40) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    fn cut(patience: &Patience, ran: Duration, now: Duration) -> bool {
        patience.cut(Cut { ran, now }, 10 * SECOND, FLOOR)
    }

    #[test]
    fn it_takes_two_words() {
        assert_eq!(size_of::<Patience>(), 16);
    }

    #[test]
    fn it_is_long_to_run_for_four_deviations_above_the_mean_and_a_quarter_at_least() {
        let patience = Patience::default();
        assert_eq!(patience.long(7 * SECOND), 7 * SECOND);
        patience.learn(20 * MS);
        assert_eq!(patience.long(7 * SECOND), 60 * MS);
        for _ in 0..1_000 {
            patience.learn(20 * MS);
        }
        assert_eq!(patience.long(7 * SECOND), 25 * MS);
        for _ in 0..1_000 {
            patience.learn(3 * SECOND);
        }
        let long = patience.long(7 * SECOND);
        assert!(long > 3_700 * MS && long <= 3_750 * MS, "{long:?}");
        for _ in 0..1_000 {
            patience.learn(Duration::MAX);
            patience.learn(Duration::ZERO);
        }
        assert!(patience.long(FLOOR) > FLOOR);
    }

    #[test]
    fn one_response_that_takes_hours_does_not_hide_a_hang() {
        let patience = Patience::default();
        for _ in 0..1_000 {
            patience.learn(20 * MS);
        }
        patience.learn(Duration::from_secs(7_200));
        assert!(patience.long(FLOOR) < 60 * MS, "{:?}", patience.long(FLOOR));
        for _ in 0..50 {
            patience.learn(20 * MS);
        }
        assert!(patience.long(FLOOR) < 27 * MS, "{:?}", patience.long(FLOOR));
        // A dependency that becomes slow is known after a few responses.
        for _ in 0..12 {
            patience.learn(3 * SECOND);
        }
        assert!(patience.long(FLOOR) > 3 * SECOND, "{:?}", patience.long(FLOOR));
    }

    #[test]
    fn a_cut_counts_only_in_silence_and_if_the_call_ran_long() {
        let patience = Patience::default();
        patience.learn(20 * MS);
        for begin in [0, 3_600].map(Duration::from_secs) {
            for ms in (0..10_000).step_by(100) {
                // Those that did not run long do not begin the silence either.
                assert!(!cut(&patience, 59 * MS, begin + MS * ms));
            }
            for ms in (10_000..20_000).step_by(100) {
                assert!(!cut(&patience, SECOND, begin + MS * ms));
            }
            assert!(!cut(&patience, 59 * MS, begin + 20 * SECOND));
            assert!(cut(&patience, 60 * MS, begin + 20 * SECOND));
            patience.heard();
            assert!(!cut(&patience, SECOND, begin + 30 * SECOND));
        }
    }

    #[test]
    fn a_silence_is_a_time_in_which_calls_are_cut_and_not_a_time_without_calls() {
        let patience = Patience::default();
        patience.learn(20 * MS);
        // Idle times between two calls that are cut, the shortest as long as the silence.
        let mut now = SECOND;
        for idle in [10, 11, 60, 3_600, 86_400] {
            assert!(!cut(&patience, SECOND, now), "{idle}");
            now += Duration::from_secs(idle) + SECOND;
            assert!(!cut(&patience, SECOND, now), "{idle}");
        }
        // A shorter pause does not end it.
        assert!(!cut(&patience, SECOND, now + 9 * SECOND));
        assert!(cut(&patience, SECOND, now + 18 * SECOND));
        // Of two threads, the one that read the clock earlier may come later.
        assert!(cut(&patience, SECOND, now + 17 * SECOND));
        assert!(cut(&patience, SECOND, now + 19 * SECOND));
        // The time of a call that runs is not idle.
        for minutes in 1..600 {
            assert!(cut(&patience, 60 * SECOND, now + 60 * SECOND * minutes), "{minutes}");
        }
    }

    #[test]
    fn what_is_given_back_on_a_slow_route_counts_only_after_others_had_time_for_a_response() {
        let patience = Patience::default();
        for _ in 0..100 {
            patience.learn(30 * SECOND);
        }
        let given_back = |seconds| {
            let cut = Cut { ran: Duration::ZERO, now: SECOND * seconds };
            patience.given_back(cut, 10 * SECOND)
        };
        assert!((1..30).all(|seconds| !given_back(seconds)));
        assert!((30..50).any(given_back));
    }

    #[test]
    fn the_whole_of_a_tiny_limit_is_not_zero() {
        assert_eq!(whole(SECOND), SECOND - SLACK);
        assert_eq!(whole(Duration::from_micros(8)), Duration::from_micros(6));
        assert_eq!(whole(Duration::from_nanos(1)), Duration::from_nanos(1));
    }

    #[test]
    fn the_silence_is_the_window_within_bounds() {
        let of = |window| silence(Duration::from_millis(window));
        assert_eq!([of(10), of(5_000), of(600_000)], [SECOND, 5 * SECOND, 10 * SECOND]);
    }

    #[test]
    fn a_deadline_that_is_no_nearer_than_the_stacks_limit_is_not_the_callers() {
        let own = [999 * MS, SECOND, 5 * SECOND].map(|time| is_own(time, Some(SECOND)));
        assert_eq!((own, is_own(SECOND, None)), ([false, true, true], false));
    }
}
