//! What goes wrong in a worker, and where.

use std::{
    collections::HashMap,
    fmt,
    process::{self, Command},
    str::FromStr,
    sync::{Mutex, PoisonError},
    thread,
};

use buttress::idempotency::StorageKey;

/// A place in the life of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    BeforeClaim,
    ClaimedBeforeEffect,
    /// In the handler, with nothing to wait for before the charge: what stops here charges late.
    BeforeEffect,
    BetweenEffectAndRecord,
    RecordedBeforeAnswer,
    InRenewal,
}

impl Point {
    /// Where workers are killed.
    pub(crate) const KILLS: [Self; 5] = [
        Self::BeforeClaim,
        Self::ClaimedBeforeEffect,
        Self::BetweenEffectAndRecord,
        Self::RecordedBeforeAnswer,
        Self::InRenewal,
    ];

    /// Where workers are stopped, to come back when their lease is over.
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

/// What happens to the whole process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// `kill -9`.
    Kill,
    /// `kill -STOP`; the driver lets it go on.
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

/// The faults that the driver has asked this worker for, each for one request.
#[derive(Debug, Default)]
pub(crate) struct Armed(Mutex<HashMap<StorageKey, Fault>>);

impl Armed {
    pub(crate) fn arm(&self, key: StorageKey, fault: Fault) {
        self.faults().insert(key, fault);
    }

    /// Does what was asked for at this point, if anything was. A killed process does not return from it; a
    /// stopped one does, later.
    pub(crate) fn reach(&self, point: Point, key: &StorageKey) {
        let fault = {
            let mut faults = self.faults();
            if faults.get(key).is_none_or(|fault| fault.point != point) {
                return;
            }
            faults.remove(key)
        };
        let Some(fault) = fault else { return };
        // A line is written at once, so the driver knows that the point was met before the process is gone.
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

/// Sends a signal to one process of ours.
pub(crate) fn signal(name: &str, process: u32) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(process.to_string()).status();
    if !sent.is_ok_and(|status| status.success()) {
        // Without its faults a campaign would show nothing.
        eprintln!("kill -{name} {process} did not work");
        process::abort();
    }
}
