//! The gates that keep repeated lines out of the log.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::gate_number::GATES;

/// The shortest time between two lines of the same layer and reason.
const EVERY: Duration = Duration::from_secs(10);

/// A gate for the lines of one layer and one reason.
///
/// The first line passes at once, and then one line in 10 s. It carries the number of lines that
/// were suppressed since the previous one.
#[derive(Debug)]
pub(crate) struct Gate {
    /// The instant from which a line passes, in nanoseconds. It is zero before the first line.
    next: AtomicU64,
    suppressed: AtomicU64,
}

/// The decision of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passage {
    /// The line passes, after `suppressed` lines that did not.
    Open {
        suppressed: u64,
    },
    Shut,
}

impl Gate {
    const fn new() -> Self {
        Self { next: AtomicU64::new(0), suppressed: AtomicU64::new(0) }
    }

    /// Decides on a line at the time `now`, in nanoseconds.
    pub(crate) fn pass(&self, now: u64) -> Passage {
        let every = EVERY.as_nanos() as u64;
        let next = self.next.load(Ordering::Relaxed);
        // A clock that went back, as in a test, must not keep the gate shut. A time of another
        // thread that is a little older than that of the last line is no such clock.
        let is_due = now >= next || next - now > 2 * every;
        let claim = now.saturating_add(every);
        let passes = is_due
            && self
                .next
                .compare_exchange(next, claim, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if passes {
            Passage::Open { suppressed: self.suppressed.swap(0, Ordering::Relaxed) }
        } else {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            Passage::Shut
        }
    }

    /// Lets the next line pass at once.
    ///
    /// If `take` is set, returns the number of suppressed lines, which another line then carries.
    pub(crate) fn reopen(&self, take: bool) -> u64 {
        self.next.store(0, Ordering::Relaxed);
        if take { self.suppressed.swap(0, Ordering::Relaxed) } else { 0 }
    }
}

/// The gates of one layer, one for each reason.
#[derive(Debug)]
pub(crate) struct Gates([Gate; GATES]);

impl Gates {
    pub(super) const fn new() -> Self {
        Self([const { Gate::new() }; GATES])
    }

    /// Returns the gate with the number that an event has.
    pub(crate) fn of(&self, number: usize) -> &Gate {
        &self.0[number]
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Barrier, thread};

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const NOW: u64 = 1 << 62;

    #[test]
    fn a_time_that_was_read_before_the_last_line_does_not_open_the_gate() {
        let gate = Gate::new();
        assert_eq!(gate.pass(NOW), Passage::Open { suppressed: 0 });
        assert_eq!(gate.pass(NOW - 1), Passage::Shut);
        assert_eq!(gate.pass(NOW + 10 * SECOND), Passage::Open { suppressed: 1 });
    }

    #[test]
    fn a_clock_that_went_back_does_not_keep_the_gate_shut() {
        let gate = Gate::new();
        assert_eq!(gate.pass(NOW), Passage::Open { suppressed: 0 });
        assert_eq!(gate.pass(NOW - 11 * SECOND), Passage::Open { suppressed: 0 });
        assert_eq!(gate.pass(NOW - 11 * SECOND), Passage::Shut);
    }

    #[test]
    fn lines_of_many_threads_are_one_and_add_up() {
        const THREADS: u64 = 8;
        const LINES: u64 = 1_000;
        let (gate, clock) = (Gate::new(), AtomicU64::new(NOW));
        let line = || gate.pass(clock.fetch_add(SECOND / 1_000, Ordering::Relaxed));
        let barrier = Barrier::new(THREADS as usize);
        let thread = || {
            barrier.wait();
            (0..LINES).filter(|_| line() != Passage::Shut).count()
        };
        let open: usize = thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(thread)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(open, 1);
        let next = gate.pass(NOW + 20 * SECOND);
        assert_eq!(next, Passage::Open { suppressed: THREADS * LINES - 1 });
    }
}
