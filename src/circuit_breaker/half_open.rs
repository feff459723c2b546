//! A round of probes, and the leases that admit them.

use std::{num::NonZeroU64, time::Duration};

use tokio::time::Instant;

use super::config::Config;

/// The identity of a lease, unique within a breaker.
pub(super) type LeaseId = NonZeroU64;

/// One round of probes of a half-open breaker, which ends when it has passed or failed.
#[derive(Debug, Default)]
pub(super) struct Round {
    passed: u32,
    failed: u32,
    leases: Vec<Lease>,
    /// Counts up through all rounds, so that no lease has the id of an earlier one.
    last_lease: u64,
    /// The total time of dropped probes for which no response came.
    unanswered: Duration,
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
        let (mut passed, mut failed) = (0, 0);
        self.leases.retain(|lease| {
            let expired = lease.end.is_some_and(|end| end <= now);
            match lease.stage {
                Stage::Readying | Stage::Called if expired => failed += 1,
                Stage::Answering if expired => passed += 1,
                _ => {}
            }
            !expired
        });
        self.passed += passed;
        self.failed += failed;
        self.progress(config)
    }

    /// Settles a probe that has a result. Its slot is free again if `passed` is `None`.
    pub(super) fn settle(
        &mut self,
        id: LeaseId,
        passed: Option<bool>,
        config: &Config,
    ) -> Progress {
        if self.take(id).is_some() {
            match passed {
                Some(true) => self.passed += 1,
                Some(false) => self.failed += 1,
                None => {}
            }
        }
        self.progress(config)
    }

    /// Settles a probe that was dropped. It has failed if it panicked or had enough time.
    ///
    /// Shorter times add up. Otherwise a series of impatient callers would keep the breaker
    /// half-open forever while its dependency hangs.
    pub(super) fn abandon(
        &mut self,
        id: LeaseId,
        waited_since: Option<Instant>,
        panicked: bool,
        now: Instant,
        config: &Config,
    ) -> Progress {
        if let Some(lease) = self.take(id) {
            let ran = now.saturating_duration_since(waited_since.unwrap_or(lease.since));
            if lease.stage == Stage::Ready && !panicked {
                // The dependency was not called.
                return self.progress(config);
            }
            if panicked || ran >= config.abandoned_after {
                self.failed += 1;
                return self.progress(config);
            }
            self.unanswered = self.unanswered.saturating_add(ran);
            if self.unanswered >= config.probe_lease {
                self.unanswered = Duration::ZERO;
                self.failed += 1;
            }
        }
        self.progress(config)
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
