//! A round of probes, and the leases that admit them.

use std::{mem, num::NonZeroU64, time::Duration};

use tokio::time::Instant;

use super::{
    config::Config,
    effects::{Hint, ProbeEnds},
};

/// The identity of a lease, unique within a breaker.
pub(super) type LeaseId = NonZeroU64;

/// One round of probes of a half-open breaker, which ends when it has passed or failed.
#[derive(Debug, Default)]
pub(super) struct Round {
    passed: u32,
    failed: u32,
    /// The failed probes that were overloads which named a time, and the last of these times.
    overloads: u32,
    named: Duration,
    leases: Vec<Lease>,
    /// The probes that have ended and are not counted yet.
    ends: ProbeEnds,
    /// Counts up through all rounds, so that no lease has the id of an earlier one.
    last_lease: u64,
}

/// The right to send one probe, for a limited time.
///
/// The time is limited, because a probe that never ends must not keep the breaker half-open
/// forever.
#[derive(Debug)]
struct Lease {
    id: LeaseId,
    stage: Stage,
    since: Instant,
    /// `None` if the end is beyond what the clock can express.
    end: Option<Instant>,
}

/// The end of a probe without a result.
#[derive(Clone, Copy, Debug)]
pub(super) enum Dropped {
    Panicked,
    /// The probe was cut from outside.
    Cut {
        /// The instant since which the dependency kept its caller waiting, if that is not the
        /// beginning of the lease.
        waited_since: Option<Instant>,
        /// The run time from which the probe has failed.
        fails_after: Duration,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The service is not ready yet.
    Readying,
    /// The service is ready and the caller has not called.
    Ready,
    /// The call is running.
    Called,
    /// The response began well, and has not ended.
    Answering,
}

/// The progress of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Undecided,
    Passed,
    Failed,
}

impl Round {
    pub(super) fn begin_after(previous: &Self) -> Self {
        Self { last_lease: previous.last_lease, ..Self::default() }
    }

    /// Takes the probes that have ended since the last call.
    pub(super) fn take_ends(&mut self) -> ProbeEnds {
        mem::take(&mut self.ends)
    }

    pub(super) fn under_way(&self) -> u32 {
        u32::try_from(self.leases.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn free_slots(&self, config: &Config) -> u32 {
        config.probes.saturating_sub(self.passed + self.failed + self.under_way())
    }

    /// Admits one more probe, if there is a free slot.
    pub(super) fn lease(&mut self, now: Instant, config: &Config) -> Option<LeaseId> {
        if self.free_slots(config) == 0 {
            return None;
        }
        self.last_lease += 1;
        let id = LeaseId::new(self.last_lease)?;
        let end = now.checked_add(config.probe_lease);
        self.leases.push(Lease { id, stage: Stage::Readying, since: now, end });
        Some(id)
    }

    /// Returns the time that was named last, if most of the failed probes are overloads.
    pub(super) fn overloaded(&self) -> Option<Hint> {
        (self.overloads * 2 > self.failed).then_some(Hint { time: self.named, overload: true })
    }

    pub(super) fn holds(&self, id: LeaseId) -> bool {
        self.leases.iter().any(|lease| lease.id == id)
    }

    pub(super) fn ready(&mut self, id: LeaseId) {
        if let Some(lease) = self.find(id) {
            lease.stage = Stage::Ready;
        }
    }

    /// Records that the response to the probe began well.
    pub(super) fn answering(&mut self, id: LeaseId) {
        if let Some(lease) = self.find(id) {
            lease.stage = Stage::Answering;
        }
    }

    /// Renews the lease of a probe that is called. Returns `false` if the lease has ended.
    pub(super) fn begin(&mut self, id: LeaseId, now: Instant, config: &Config) -> bool {
        let Some(lease) = self.find(id) else { return false };
        lease.stage = Stage::Called;
        lease.since = now;
        lease.end = now.checked_add(config.probe_lease);
        true
    }

    /// Returns the instant at which the next lease expires.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.leases.iter().filter_map(|lease| lease.end).min()
    }

    /// Ends the leases that have expired.
    ///
    /// A dependency that did not respond, or did not become ready, has failed. A caller that did
    /// not call says nothing about it. A response that only continues beyond its lease has
    /// passed. Otherwise a service with long streams could never close the breaker.
    pub(super) fn expire(&mut self, now: Instant, config: &Config) -> Progress {
        let mut ends = ProbeEnds::default();
        self.leases.retain(|lease| {
            let expired = lease.end.is_some_and(|end| end <= now);
            match lease.stage {
                _ if !expired => {}
                Stage::Readying | Stage::Called => ends.expired += 1,
                Stage::Answering => ends.passed += 1,
                Stage::Ready => ends.returned += 1,
            }
            !expired
        });
        self.passed += ends.passed;
        self.failed += ends.expired;
        self.ends.add(ends);
        self.progress(config)
    }

    /// Settles a probe that has a result.
    ///
    /// If the result says nothing, `passed` is `None`. The slot is then free again, unless the head
    /// of the response has said enough.
    pub(super) fn settle(
        &mut self,
        id: LeaseId,
        passed: Option<bool>,
        hint: Option<Hint>,
        config: &Config,
    ) -> Progress {
        if let Some(lease) = self.take(id) {
            match passed {
                Some(true) => self.end(true),
                Some(false) => {
                    self.end(false);
                    if let Some(hint) = hint.filter(|hint| hint.overload) {
                        self.overloads += 1;
                        self.named = hint.time;
                    }
                }
                None if lease.stage == Stage::Answering => self.end(true),
                None => self.ends.returned += 1,
            }
        }
        self.progress(config)
    }

    /// Settles a probe that was dropped. It has failed if it panicked or ran long enough.
    ///
    /// Otherwise it has passed if its response began well. A dependency whose readers all leave
    /// could else never close the breaker. Without a response, its slot is free again, and nothing
    /// adds up. Callers in a hurry could else open the breaker of a slow dependency again and
    /// again.
    pub(super) fn abandon(
        &mut self,
        id: LeaseId,
        dropped: Dropped,
        now: Instant,
        config: &Config,
    ) -> Progress {
        if let Some(lease) = self.take(id) {
            match (dropped, lease.stage) {
                (Dropped::Panicked, _) => self.end(false),
                // The dependency was not called.
                (Dropped::Cut { .. }, Stage::Ready) => self.ends.returned += 1,
                (Dropped::Cut { waited_since, fails_after }, stage) => {
                    let since = waited_since.unwrap_or(lease.since);
                    if now.saturating_duration_since(since) >= fails_after {
                        self.end(false);
                    } else if stage == Stage::Answering {
                        self.end(true);
                    } else {
                        self.ends.returned += 1;
                    }
                }
            }
        }
        self.progress(config)
    }

    /// Counts a probe that has passed or failed.
    fn end(&mut self, passed: bool) {
        let (of_round, not_counted) = match passed {
            true => (&mut self.passed, &mut self.ends.passed),
            false => (&mut self.failed, &mut self.ends.failed),
        };
        *of_round += 1;
        *not_counted += 1;
    }

    /// Returns the progress, which is final as soon as the remaining probes cannot change it.
    fn progress(&self, config: &Config) -> Progress {
        if self.passed >= config.probes_to_pass {
            Progress::Passed
        } else if self.failed > config.probes - config.probes_to_pass {
            Progress::Failed
        } else {
            Progress::Undecided
        }
    }

    fn find(&mut self, id: LeaseId) -> Option<&mut Lease> {
        self.leases.iter_mut().find(|lease| lease.id == id)
    }

    fn take(&mut self, id: LeaseId) -> Option<Lease> {
        let index = self.leases.iter().position(|lease| lease.id == id)?;
        Some(self.leases.swap_remove(index))
    }
}
