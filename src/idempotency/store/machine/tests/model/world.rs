//! The state of the model: a store, its workers, the network, and the system with the effect.
//!
//! Time has no length here. A lease is alive or has ended, and one event ends all leases. Times
//! to live and retentions never end, because what follows them is another operation. Fences are
//! renumbered in their order, so that an endless run has finitely many states.

use std::time::Duration;

use super::super::super::{self as machine, RecordState, RunStage, StoredRecord};
use crate::idempotency::{
    Claim, ClaimMode, ClaimOutcome, Completed, Fingerprint, Hold, OnUnknown, Owner, Resolution,
    ScopeId, StepOutcome, StorageKey,
};

const NOW: Duration = Duration::from_secs(100);
const LEASE: Duration = Duration::from_secs(1);
const FOREVER: Duration = Duration::MAX;

pub(super) const WORKERS: usize = 3;
pub(super) const KEYS: usize = 2;
const WIRE: usize = 2;

/// The way in which the effect begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Started,
    Reserved,
    /// The effect and the record are committed at once.
    Transactional,
}

/// The policy for an unknown operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    /// An operator resolves it, and never as not done while a worker might still do it.
    Quarantine,
    /// It is run again. The system executes each key once, and then returns its first result.
    Rerun,
    /// The system is asked, and rejects smaller fences from then on.
    Reconcile,
}

/// The rule that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    Nothing,
    /// Steps of a hold are taken even if its fence is wrong.
    FenceCheck,
    /// All claims have the same owner.
    OwnerToken,
    /// A run that has started is treated as one that has not.
    StartedRule,
    /// Reconciling only asks, and does not fence off the earlier run.
    Reconciling,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Config {
    pub(super) mode: Mode,
    pub(super) policy: Policy,
    pub(super) broken: Broken,
    /// The keys that each worker runs, one after the other.
    pub(super) runs: [&'static [usize]; WORKERS],
    /// The number of writes that may be delayed or repeated at a time.
    pub(super) strays: usize,
}

/// The progress of a worker in its run. A worker without events is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum At {
    Idle,
    Claiming,
    Claimed { fence: u64, taken_over: bool },
    MayRun { fence: u64 },
    Ran { fence: u64, result: u8 },
    Recorded { result: u8 },
    Releasing,
    Abandoning { fence: u64 },
    Gone,
}

/// A write on its way to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Message {
    pub(super) key: usize,
    pub(super) worker: usize,
    pub(super) write: Write,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Write {
    Claim,
    MarkStarted(u64),
    Renew(u64),
    Complete(u64, u8),
    Release,
    Abandon(u64),
}

/// The state of the system that the effect reaches, for one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Ledger {
    charges: u8,
    result: Option<u8>,
    /// The largest fence that was raised. Smaller fences are rejected.
    raised: u64,
    /// The first success that a client was told.
    told: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) slots: [Option<StoredRecord<u8>>; KEYS],
    fence: u64,
    pub(super) workers: [(usize, At); WORKERS],
    wire: [Option<Message>; WIRE],
    ledgers: [Ledger; KEYS],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Begins(usize),
    /// A write reaches the store, and its result reaches the worker.
    Writes(usize, Write),
    /// A write is sent, and its result is lost. It arrives later, perhaps after a repeated one, or
    /// never.
    Strays(usize, Write),
    Arrives(Message),
    TakesEffect(usize),
    Reconciles(usize),
    AnswersItsClient(usize),
    /// Nothing has begun, and nothing will.
    GivesUp(usize),
    /// The worker does not know what it has done.
    Fails(usize),
    /// The worker dies, or its clock says, rightly or not, that its lease ended.
    Crashes(usize),
    LeasesLapse,
    IsSwept(usize),
    StoreRestarts,
    OperatorResolves(usize),
}

/// The situations that occurred, to check that the model reaches the important ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) replayed: bool,
    pub(super) told_unknown: bool,
    pub(super) told_in_flight: bool,
    pub(super) taken_over: bool,
    pub(super) claimed_again: bool,
    pub(super) stale: bool,
    pub(super) refused_downstream: bool,
}

impl Seen {
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            replayed: self.replayed || other.replayed,
            told_unknown: self.told_unknown || other.told_unknown,
            told_in_flight: self.told_in_flight || other.told_in_flight,
            taken_over: self.taken_over || other.taken_over,
            claimed_again: self.claimed_again || other.claimed_again,
            stale: self.stale || other.stale,
            refused_downstream: self.refused_downstream || other.refused_downstream,
        }
    }
}

pub(super) type Checked = Result<(), &'static str>;

pub(super) const TWICE: &str = "the effect was executed twice";
pub(super) const CONTRADICTION: &str = "two answers contradict each other";
const WITHOUT_EFFECT: &str = "a success was answered without an effect";
pub(super) const STALE_CHANGED: &str = "a stale step changed a record";
const OTHER_KEY: &str = "a step on one key changed another";
const STUCK: &str = "a key stays in flight";

impl World {
    pub(super) fn new(config: &Config) -> Self {
        let run = |runs: &[usize]| if runs.is_empty() { At::Gone } else { At::Idle };
        Self {
            slots: [None, None],
            fence: 0,
            workers: config.runs.map(|runs| (0, run(runs))),
            wire: [None; WIRE],
            ledgers: [Ledger::default(); KEYS],
        }
    }

    /// Adds the events that may happen next.
    pub(super) fn events(&self, config: &Config, events: &mut Vec<Event>) {
        for worker in 0..WORKERS {
            self.events_of(config, worker, events);
        }
        events.extend(self.wire.iter().flatten().map(|&message| Event::Arrives(message)));
        let in_flight = |slot: &Option<StoredRecord<u8>>| {
            slot.as_ref().is_some_and(|record| matches!(record.state, RecordState::InFlight { .. }))
        };
        let lapsed = |slot: &Option<StoredRecord<u8>>| {
            slot.as_ref().is_some_and(|record| record.until <= NOW)
        };
        if self.slots.iter().any(|slot| in_flight(slot) && !lapsed(slot)) {
            events.push(Event::LeasesLapse);
        }
        if self.slots.iter().any(in_flight) {
            events.push(Event::StoreRestarts);
        }
        for key in 0..KEYS {
            if lapsed(&self.slots[key]) {
                events.push(Event::IsSwept(key));
            }
            if config.policy == Policy::Quarantine && self.may_resolve(config, key) {
                events.push(Event::OperatorResolves(key));
            }
        }
    }

    fn events_of(&self, config: &Config, worker: usize, events: &mut Vec<Event>) {
        let (_, at) = self.workers[worker];
        if at == At::Idle {
            events.push(Event::Begins(worker));
            return;
        }
        if at == At::Gone {
            return;
        }
        events.push(Event::Crashes(worker));
        if let Some(write) = self.next_write(config, worker) {
            self.writes(config.strays, worker, write, events);
        }
        match at {
            At::Claimed { fence, .. } | At::MayRun { fence } | At::Ran { fence, .. } => {
                self.writes(config.strays, worker, Write::Renew(fence), events);
            }
            _ => {}
        }
        match at {
            At::Claiming => events.push(Event::GivesUp(worker)),
            At::Claimed { taken_over, .. } => {
                events.extend([Event::GivesUp(worker), Event::Fails(worker)]);
                if taken_over && config.policy == Policy::Reconcile {
                    events.push(Event::Reconciles(worker));
                }
            }
            At::MayRun { .. } => {
                events.extend([Event::GivesUp(worker), Event::Fails(worker)]);
                events.push(Event::TakesEffect(worker));
            }
            At::Ran { .. } if config.mode == Mode::Transactional => {
                events.push(Event::Fails(worker));
            }
            // When the store is down, the result may be returned without a record, because the
            // effect has happened.
            At::Ran { .. } => {
                events.extend([Event::Fails(worker), Event::AnswersItsClient(worker)]);
            }
            At::Recorded { .. } => events.push(Event::AnswersItsClient(worker)),
            At::Idle | At::Releasing | At::Abandoning { .. } | At::Gone => {}
        }
    }

    fn writes(&self, strays: usize, worker: usize, write: Write, events: &mut Vec<Event>) {
        events.push(Event::Writes(worker, write));
        if self.wire.iter().flatten().count() < strays {
            events.push(Event::Strays(worker, write));
        }
    }

    /// Returns the write that a worker needs to continue.
    fn next_write(&self, config: &Config, worker: usize) -> Option<Write> {
        match self.workers[worker].1 {
            At::Claiming => Some(Write::Claim),
            At::Claimed { fence, taken_over: false } if config.mode == Mode::Reserved => {
                Some(Write::MarkStarted(fence))
            }
            At::Ran { fence, result } => Some(Write::Complete(fence, result)),
            At::Releasing => Some(Write::Release),
            At::Abandoning { fence } => Some(Write::Abandon(fence)),
            _ => None,
        }
    }

    pub(super) fn take(&mut self, config: &Config, event: Event, seen: &mut Seen) -> Checked {
        match event {
            Event::Begins(worker) => self.workers[worker].1 = At::Claiming,
            Event::Writes(worker, write) => self.write(config, worker, write, seen)?,
            Event::Strays(worker, write) => {
                let message = Message { key: self.key(config, worker), worker, write };
                if let Some(free) = self.wire.iter_mut().find(|place| place.is_none()) {
                    *free = Some(message);
                }
            }
            Event::Arrives(message) => {
                if let Some(place) = self.wire.iter_mut().find(|place| **place == Some(message)) {
                    *place = None;
                }
                self.store(config, message, seen)?;
            }
            Event::TakesEffect(worker) => self.take_effect(config, worker, seen)?,
            Event::Reconciles(worker) => self.reconcile(config, worker),
            Event::AnswersItsClient(worker) => {
                if let At::Ran { result, .. } | At::Recorded { result } = self.workers[worker].1 {
                    self.tell(self.key(config, worker), result)?;
                }
                self.end(config, worker);
            }
            Event::GivesUp(worker) => self.workers[worker].1 = At::Releasing,
            Event::Fails(worker) => {
                if let At::Claimed { fence, .. } | At::MayRun { fence } | At::Ran { fence, .. } =
                    self.workers[worker].1
                {
                    self.workers[worker].1 = At::Abandoning { fence };
                }
            }
            Event::Crashes(worker) => self.end(config, worker),
            Event::LeasesLapse => {
                for record in self.slots.iter_mut().flatten() {
                    if let RecordState::InFlight { .. } = record.state {
                        record.until = NOW;
                    }
                }
            }
            Event::IsSwept(key) => {
                machine::update(&mut self.slots[key], NOW);
            }
            Event::StoreRestarts => {
                for key in 0..KEYS {
                    restart(&mut self.slots[key], key);
                }
            }
            Event::OperatorResolves(key) => self.resolve(key),
        }
        self.check()?;
        self.renumber_fences();
        if config.runs.iter().all(|runs| *runs == config.runs[0]) {
            self.renumber_workers();
        }
        self.wire.sort_unstable();
        Ok(())
    }

    fn key(&self, config: &Config, worker: usize) -> usize {
        config.runs[worker][self.workers[worker].0]
    }

    fn end(&mut self, config: &Config, worker: usize) {
        let run = self.workers[worker].0 + 1;
        self.workers[worker] = match run < config.runs[worker].len() {
            true => (run, At::Idle),
            false => (0, At::Gone),
        };
    }

    fn write(&mut self, config: &Config, worker: usize, write: Write, seen: &mut Seen) -> Checked {
        let key = self.key(config, worker);
        let told = self.store(config, Message { key, worker, write }, seen)?;
        let at = self.workers[worker].1;
        self.workers[worker].1 = match (told, at) {
            (Told::Claimed { fence, taken_over }, _) => {
                let runs_at_once = match config.policy {
                    _ if !taken_over => config.mode != Mode::Reserved,
                    Policy::Reconcile => false,
                    Policy::Quarantine | Policy::Rerun => true,
                };
                match runs_at_once {
                    true => At::MayRun { fence },
                    false => At::Claimed { fence, taken_over },
                }
            }
            (Told::Replay(result), _) => {
                self.tell(key, result)?;
                self.end(config, worker);
                return Ok(());
            }
            // A duplicate, which may ask again.
            (Told::Nothing, at) => at,
            (Told::StepOutcome(StepOutcome::Applied), At::Claimed { fence, .. })
                if matches!(write, Write::MarkStarted(_)) =>
            {
                At::MayRun { fence }
            }
            (Told::StepOutcome(StepOutcome::Applied), At::Ran { result, .. })
                if matches!(write, Write::Complete(..)) =>
            {
                At::Recorded { result }
            }
            (Told::StepOutcome(StepOutcome::Applied), at) if matches!(write, Write::Renew(_)) => at,
            // The run is done, or the worker is no longer the owner and never responds.
            (Told::StepOutcome(_), _) => {
                self.end(config, worker);
                return Ok(());
            }
        };
        Ok(())
    }

    /// Takes a step of the store, and checks that it did nothing forbidden.
    fn store(
        &mut self,
        config: &Config,
        message: Message,
        seen: &mut Seen,
    ) -> Result<Told, &'static str> {
        let Message { key, worker, write } = message;
        let storage_key = storage_key(key);
        let owner = match config.broken {
            Broken::OwnerToken => Owner::from_bytes([0; 16]),
            _ => owner_of(worker),
        };
        let others = self.slots.clone();
        let mut before = self.slots[key].clone();
        let slot = &mut self.slots[key];
        let mut hold = None;
        let told = match write {
            Write::Claim => {
                let mut claim = Claim::new(
                    storage_key,
                    ScopeId::of(b""),
                    owner,
                    Fingerprint::from_bytes([0; 33]),
                );
                claim.mode = match config.mode {
                    Mode::Started => ClaimMode::Started,
                    Mode::Reserved | Mode::Transactional => ClaimMode::Reserved,
                };
                claim.on_unknown = match config.policy {
                    Policy::Quarantine => OnUnknown::Keep,
                    Policy::Rerun | Policy::Reconcile => OnUnknown::TakeOver,
                };
                (claim.lease, claim.unknown_for) = (LEASE, FOREVER);
                let fence = &mut self.fence;
                let answer = machine::claim(slot, &claim, NOW, || {
                    *fence += 1;
                    *fence
                });
                seen.claimed_again |= matches!(&before, Some(before) if before.owner == owner)
                    && matches!(answer, ClaimOutcome::Claimed { .. });
                match answer {
                    ClaimOutcome::Claimed { fence, previous } => {
                        seen.taken_over |= previous.is_some();
                        Told::Claimed { fence, taken_over: previous.is_some() }
                    }
                    ClaimOutcome::Replay(result) => {
                        seen.replayed = true;
                        Told::Replay(result)
                    }
                    answer => {
                        seen.told_in_flight |= matches!(answer, ClaimOutcome::InFlight { .. });
                        seen.told_unknown |= matches!(answer, ClaimOutcome::Unknown { .. });
                        Told::Nothing
                    }
                }
            }
            Write::Release => Told::StepOutcome(machine::release(slot, &owner, FOREVER, NOW)),
            Write::MarkStarted(fence)
            | Write::Renew(fence)
            | Write::Complete(fence, _)
            | Write::Abandon(fence) => {
                hold = Some(fence);
                let fence = match (config.broken, &*slot) {
                    (Broken::FenceCheck, Some(record)) => record.fence,
                    _ => fence,
                };
                let hold = Hold::new(storage_key, owner, fence);
                Told::StepOutcome(match write {
                    Write::MarkStarted(_) => machine::mark_started(slot, &hold, NOW),
                    Write::Renew(_) => machine::renew(slot, &hold, LEASE, NOW),
                    Write::Complete(_, result) => {
                        let completed = Completed::replayable(result, 1);
                        machine::complete(slot, &hold, completed, FOREVER, NOW)
                    }
                    _ => machine::abandon(slot, &hold, FOREVER, NOW),
                })
            }
        };
        if config.broken == Broken::StartedRule {
            if let Some(StoredRecord { state: RecordState::InFlight { stage, .. }, .. }) = slot {
                *stage = RunStage::Reserved;
            }
        }
        machine::update(&mut before, NOW);
        if let Some(fence) = hold {
            let current = before.as_ref().is_some_and(|record| {
                record.owner == owner
                    && record.fence == fence
                    && matches!(record.state, RecordState::InFlight { .. })
            });
            seen.stale |= !current;
            if !current && *slot != before {
                return Err(STALE_CHANGED);
            }
        }
        if (0..KEYS).any(|other| other != key && others[other] != self.slots[other]) {
            return Err(OTHER_KEY);
        }
        if let Write::Complete(_, result) = write {
            let done = |slot: &Option<StoredRecord<u8>>| {
                matches!(slot, Some(StoredRecord { state: RecordState::Completed { .. }, .. }))
            };
            if config.mode == Mode::Transactional && done(&self.slots[key]) && !done(&before) {
                self.charge(key, result, true)?;
            }
        }
        Ok(told)
    }

    fn charge(&mut self, key: usize, result: u8, counts: bool) -> Checked {
        let ledger = &mut self.ledgers[key];
        ledger.result.get_or_insert(result);
        if counts {
            ledger.charges += 1;
        }
        if ledger.charges > 1 { Err(TWICE) } else { Ok(()) }
    }

    fn take_effect(&mut self, config: &Config, worker: usize, seen: &mut Seen) -> Checked {
        let At::MayRun { fence } = self.workers[worker].1 else { return Ok(()) };
        let key = self.key(config, worker);
        let mut result = worker as u8;
        match (config.mode, config.policy) {
            // The effect happens when it is committed.
            (Mode::Transactional, _) => {}
            (_, Policy::Quarantine) => self.charge(key, result, true)?,
            (_, Policy::Rerun) => {
                let first = self.ledgers[key].charges == 0;
                self.charge(key, result, first)?;
                result = self.ledgers[key].result.unwrap_or(result);
            }
            (_, Policy::Reconcile) if fence < self.ledgers[key].raised => {
                seen.refused_downstream = true;
                self.workers[worker].1 = At::Abandoning { fence };
                return Ok(());
            }
            (_, Policy::Reconcile) => self.charge(key, result, true)?,
        }
        self.workers[worker].1 = At::Ran { fence, result };
        Ok(())
    }

    fn reconcile(&mut self, config: &Config, worker: usize) {
        let At::Claimed { fence, .. } = self.workers[worker].1 else { return };
        let ledger = &mut self.ledgers[self.key(config, worker)];
        if config.broken != Broken::Reconciling {
            ledger.raised = ledger.raised.max(fence);
        }
        self.workers[worker].1 = match ledger.result {
            Some(result) => At::Ran { fence, result },
            None => At::MayRun { fence },
        };
    }

    fn tell(&mut self, key: usize, result: u8) -> Checked {
        let ledger = &mut self.ledgers[key];
        if ledger.charges == 0 {
            return Err(WITHOUT_EFFECT);
        }
        match *ledger.told.get_or_insert(result) == result {
            true => Ok(()),
            false => Err(CONTRADICTION),
        }
    }

    /// Returns whether an operator can already know the outcome of an unknown operation.
    fn may_resolve(&self, config: &Config, key: usize) -> bool {
        let at_work = (0..WORKERS).any(|worker| {
            let at = self.workers[worker].1;
            matches!(at, At::Claimed { .. } | At::MayRun { .. } | At::Ran { .. })
                && self.key(config, worker) == key
        });
        let state = self.slots[key].as_ref().map(|record| &record.state);
        matches!(state, Some(RecordState::Unknown { .. }))
            && (self.ledgers[key].charges > 0 || !at_work)
    }

    fn resolve(&mut self, key: usize) {
        let Some(fence) = self.slots[key].as_ref().map(|record| record.fence) else { return };
        let resolution = match self.ledgers[key].result {
            Some(result) => Resolution::Completed(Completed::replayable(result, 1), FOREVER),
            None => Resolution::Never,
        };
        let _ = machine::resolve(&mut self.slots[key], fence, resolution, NOW);
    }

    /// Checks the properties that must hold in every state.
    fn check(&self) -> Checked {
        for slot in &self.slots {
            let Some(record) = slot else { continue };
            if let RecordState::InFlight { .. } = record.state {
                // No lease is longer than requested. When it has ended, the key is no longer in
                // flight.
                let mut later = slot.clone();
                machine::update(&mut later, NOW + LEASE);
                if later.is_some_and(|record| matches!(record.state, RecordState::InFlight { .. }))
                {
                    return Err(STUCK);
                }
            }
        }
        Ok(())
    }

    /// Makes states equal that differ only in the size of their fences.
    fn renumber_fences(&mut self) {
        let (mut fences, mut count) = ([0; 16], 0);
        self.each_fence(|fence| {
            if !fences[..count].contains(fence) {
                fences[count] = *fence;
                count += 1;
            }
        });
        let fences = &mut fences[..count];
        fences.sort_unstable();
        if fences.last() == Some(&(count as u64)) && fences.first() == Some(&1) {
            self.fence = count as u64;
            return;
        }
        self.each_fence(|fence| {
            *fence = fences.binary_search(fence).map_or(0, |place| place as u64 + 1);
        });
        self.fence = count as u64;
    }

    /// Makes states equal that differ only in the names of workers, if all run the same keys.
    fn renumber_workers(&mut self) {
        let mut order: [usize; WORKERS] = std::array::from_fn(|worker| worker);
        order.sort_by_cached_key(|&worker| {
            let at = match self.workers[worker].1 {
                At::Ran { fence, .. } => At::Ran { fence, result: 0 },
                At::Recorded { .. } => At::Recorded { result: 0 },
                at => at,
            };
            let owns = self.slots.iter().flatten().any(|record| record.owner == owner_of(worker));
            let charged = self.ledgers.iter().any(|ledger| ledger.result == Some(worker as u8));
            let sent = self.wire.map(|message| {
                message.filter(|message| message.worker == worker).map(|message| message.write)
            });
            (at, owns, charged, sent)
        });
        if order.is_sorted() {
            return;
        }
        let before = self.workers;
        for (now, &was) in order.iter().enumerate() {
            self.workers[now] = before[was];
        }
        let now = |was: usize| order.iter().position(|&worker| worker == was).unwrap_or(was);
        let rename = |result: &mut u8| *result = now(usize::from(*result)) as u8;
        for record in self.slots.iter_mut().flatten() {
            if let Some(was) = (0..WORKERS).find(|&worker| record.owner == owner_of(worker)) {
                record.owner = owner_of(now(was));
            }
            if let RecordState::Completed { payload: Some(result) } = &mut record.state {
                rename(result);
            }
        }
        for (_, at) in &mut self.workers {
            if let At::Ran { result, .. } | At::Recorded { result } = at {
                rename(result);
            }
        }
        for message in self.wire.iter_mut().flatten() {
            message.worker = now(message.worker);
            if let Write::Complete(_, result) = &mut message.write {
                rename(result);
            }
        }
        for ledger in &mut self.ledgers {
            ledger.result.iter_mut().chain(&mut ledger.told).for_each(rename);
        }
    }

    fn each_fence(&mut self, mut visit: impl FnMut(&mut u64)) {
        for record in self.slots.iter_mut().flatten() {
            // The time is only reported and never acted on.
            record.since = NOW;
            visit(&mut record.fence);
            if let RecordState::InFlight { stage: RunStage::TakenOver { from }, .. } =
                &mut record.state
            {
                visit(from);
            }
        }
        for (_, at) in &mut self.workers {
            match at {
                At::Claimed { fence, .. }
                | At::MayRun { fence }
                | At::Ran { fence, .. }
                | At::Abandoning { fence } => visit(fence),
                At::Idle | At::Claiming | At::Recorded { .. } | At::Releasing | At::Gone => {}
            }
        }
        for message in self.wire.iter_mut().flatten() {
            match &mut message.write {
                Write::MarkStarted(fence)
                | Write::Renew(fence)
                | Write::Complete(fence, _)
                | Write::Abandon(fence) => visit(fence),
                Write::Claim | Write::Release => {}
            }
        }
        for ledger in &mut self.ledgers {
            if ledger.raised > 0 {
                visit(&mut ledger.raised);
            }
        }
    }
}

/// The result of a write, as its worker uses it.
enum Told {
    Claimed { fence: u64, taken_over: bool },
    Replay(u8),
    Nothing,
    StepOutcome(StepOutcome),
}

fn owner_of(worker: usize) -> Owner {
    Owner::from_bytes([worker as u8 + 1; 16])
}

fn storage_key(key: usize) -> StorageKey {
    StorageKey::from_bytes([key as u8; 32])
}

/// Restarts a store that belongs to one process, such as one that opens its file again.
///
/// A shared store keeps everything, and its restart is not an event here.
fn restart(slot: &mut Option<StoredRecord<u8>>, key: usize) {
    machine::update(slot, NOW);
    match slot {
        Some(StoredRecord {
            state: RecordState::InFlight { stage: RunStage::Reserved, .. },
            ..
        }) => *slot = None,
        Some(StoredRecord { owner, fence, state: RecordState::InFlight { .. }, .. }) => {
            let hold = Hold::new(storage_key(key), *owner, *fence);
            let _ = machine::abandon(slot, &hold, FOREVER, NOW);
        }
        _ => {}
    }
}
