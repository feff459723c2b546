//! The faults of a worker, and the points at which they happen.

use std::{
    collections::HashMap,
    fmt,
    process::{self, Command},
    str::FromStr,
    sync::{Mutex, PoisonError},
    thread,
};

use buttress::idempotency::StorageKey;

/// A point in the life of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    BeforeClaim,
    ClaimedBeforeEffect,
    /// In the handler, with no wait before the charge, so a worker paused here charges late.
    BeforeEffect,
    BetweenEffectAndRecord,
    RecordedBeforeAnswer,
    InRenewal,
}

impl Point {
    /// The points at which workers are killed.
    pub(crate) const KILLS: [Self; 5] = [
        Self::BeforeClaim,
        Self::ClaimedBeforeEffect,
        Self::BetweenEffectAndRecord,
        Self::RecordedBeforeAnswer,
        Self::InRenewal,
    ];

    /// The points at which workers are paused until their lease has ended.
    pub(crate) const STOPS: [Self; 2] = [Self::BeforeEffect, Self::BetweenEffectAndRecord];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::BeforeClaim => "before_claim",
            Self::ClaimedBeforeEffect => "claimed_before_effect",
            Self::BeforeEffect => "before_effect",
            Self::BetweenEffectAndRecord => "between_effect_and_record",
            Self::RecordedBeforeAnswer => "recorded_before_answer",
            Self::InRenewal => "in_renewal",
        }
    }
}

/// The signal to the whole process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// Sends `kill -9`.
    Kill,
    /// Sends `kill -STOP`. The driver resumes the process.
    Stop,
}

impl Deed {
    fn signal(self) -> &'static str {
        match self {
            Self::Kill => "KILL",
            Self::Stop => "STOP",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) deed: Deed,
    pub(crate) point: Point,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.deed.signal(), self.point.name())
    }
}

impl FromStr for Fault {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let deeds = [Deed::Kill, Deed::Stop];
        let points = Point::KILLS.into_iter().chain(Point::STOPS);
        let mut faults = points.flat_map(|point| deeds.map(|deed| Self { deed, point }));
        faults.find(|fault| fault.to_string() == text).ok_or(())
    }
}

/// The faults that the driver has requested from this worker, each for one request.
#[derive(Debug, Default)]
pub(crate) struct Armed(Mutex<HashMap<StorageKey, Fault>>);

impl Armed {
    pub(crate) fn arm(&self, key: StorageKey, fault: Fault) {
        self.faults().insert(key, fault);
    }

    /// Runs the fault that was requested for this point, if any.
    ///
    /// A killed process does not return from it. A paused one returns later.
    pub(crate) fn reach(&self, point: Point, key: &StorageKey) {
        let fault = {
            let mut faults = self.faults();
            if faults.get(key).is_none_or(|fault| fault.point != point) {
                return;
            }
            faults.remove(key)
        };
        let Some(fault) = fault else { return };
        // A line is flushed at once, so the driver knows of the point before the process is gone.
        println!("reached {fault}");
        signal(fault.deed.signal(), process::id());
        if fault.deed == Deed::Kill {
            loop {
                thread::park();
            }
        }
    }

    fn faults(&self) -> std::sync::MutexGuard<'_, HashMap<StorageKey, Fault>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends a signal to one of the campaign's processes.
pub(crate) fn signal(name: &str, process: u32) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(process.to_string()).status();
    if !sent.is_ok_and(|status| status.success()) {
        // Without its faults, a campaign would show nothing.
        eprintln!("kill -{name} {process} did not work");
        process::abort();
    }
}
