//! The tables of the file, and the steps, which run inside the write transaction of their batch.

use std::time::Duration;

use redb::{ReadableTable, ReadableTableMetadata, Table, TableDefinition, WriteTransaction};

use crate::{
    checksum::checksum,
    record::{decode, decode_time, encode, encode_time},
};

use buttress::idempotency::{
    Claim, ClaimOutcome, Completed, Hold, Resolution, StepOutcome, StorageKey, StoreError,
    UnknownOperation,
    store::machine::{self, RecordState, RunStage, StoredRecord},
};

/// Holds the entries `version`, `fence` and `time`.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("buttress_idempotency_meta");
const RECORDS: TableDefinition<'_, &[u8; 32], &[u8]> =
    TableDefinition::new("buttress_idempotency_records");
/// Keys, ordered by the end of their record's state.
const UNTIL: TableDefinition<'_, &[u8; 44], ()> =
    TableDefinition::new("buttress_idempotency_until");
const IN_FLIGHT: TableDefinition<'_, &[u8; 32], ()> =
    TableDefinition::new("buttress_idempotency_in_flight");
const UNKNOWN: TableDefinition<'_, &[u8; 32], ()> =
    TableDefinition::new("buttress_idempotency_unknown");

/// The version of the file's layout, not of a record's.
const LAYOUT: u16 = 2;

/// The layout whose entries in the meta table have no checksum. It is still read.
const UNCHECKED: u16 = 1;

const GARBLED: StoreError = StoreError::Garbled("an entry of the meta table");

/// The maximum number of ended records that a claim removes when the store is full.
const MAKE_ROOM: usize = 64;

/// The maximum number of records, and of payload bytes in each of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) records: u64,
    pub(crate) payload: usize,
}

/// The reason why a step had no effect.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Only this step was rejected. It has changed nothing.
    Refused(StoreError),
    /// The file cannot be read or written. Nothing of the batch may be committed.
    Broken(redb::Error),
}

impl Failure {
    /// Converts the failure of a step that does not concern a single record.
    pub(crate) fn into_broken(self) -> redb::Error {
        match self {
            Self::Refused(error) => redb::Error::Corrupted(error.to_string()),
            Self::Broken(error) => error,
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

impl From<redb::StorageError> for Failure {
    fn from(error: redb::StorageError) -> Self {
        Self::Broken(error.into())
    }
}

impl From<redb::TableError> for Failure {
    fn from(error: redb::TableError) -> Self {
        Self::Broken(error.into())
    }
}

pub(crate) type Step<T> = Result<T, Failure>;

/// The record of a key, if it exists.
type Slot = Option<StoredRecord<Vec<u8>>>;

/// The tables within a transaction.
pub(crate) struct Tables<'t> {
    meta: Table<'t, &'static str, &'static [u8]>,
    records: Table<'t, &'static [u8; 32], &'static [u8]>,
    until: Table<'t, &'static [u8; 44], ()>,
    in_flight: Table<'t, &'static [u8; 32], ()>,
    unknown: Table<'t, &'static [u8; 32], ()>,
    limits: Limits,
    fence: u64,
    now: Duration,
    changed: bool,
}

impl<'t> Tables<'t> {
    pub(crate) fn open(transaction: &'t WriteTransaction, limits: Limits) -> Step<Self> {
        let mut tables = Self {
            meta: transaction.open_table(META)?,
            records: transaction.open_table(RECORDS)?,
            until: transaction.open_table(UNTIL)?,
            in_flight: transaction.open_table(IN_FLIGHT)?,
            unknown: transaction.open_table(UNKNOWN)?,
            limits,
            fence: 0,
            now: Duration::ZERO,
            changed: false,
        };
        tables.read_meta()?;
        Ok(tables)
    }

    /// Reads the entries for the whole file. A new file has none, and no records.
    fn read_meta(&mut self) -> Step<()> {
        let Some(found) = self.meta.get("version")? else {
            let new = self.meta.is_empty()? && self.records.is_empty()?;
            return if new { Ok(()) } else { Err(GARBLED.into()) };
        };
        let version = found.value().first_chunk().ok_or(GARBLED)?;
        let version = u16::from_be_bytes(*version);
        drop(found);
        if version > LAYOUT {
            return Err(StoreError::Newer(version).into());
        }
        self.meta::<2>("version", version)?;
        self.fence = u64::from_be_bytes(self.meta("fence", version)?);
        self.now = decode_time(self.meta("time", version)?)?;
        Ok(())
    }

    /// Returns an entry, after checking its checksum if the layout has one.
    fn meta<const N: usize>(&self, name: &str, layout: u16) -> Step<[u8; N]> {
        let found = self.meta.get(name)?.ok_or(GARBLED)?;
        let (value, sum) = found.value().split_first_chunk().ok_or(GARBLED)?;
        match (layout, sum) {
            (UNCHECKED, []) => {}
            (LAYOUT, sum) if sum == checksum(&[name.as_bytes(), value]) => {}
            _ => return Err(GARBLED.into()),
        }
        Ok(*value)
    }

    fn set_meta(&mut self, name: &str, value: &[u8]) -> Step<()> {
        let sum = checksum(&[name.as_bytes(), value]);
        self.meta.insert(name, [value, &sum].concat().as_slice())?;
        Ok(())
    }

    /// Returns the latest time at which anything was written.
    pub(crate) fn seen(&self) -> Duration {
        self.now
    }

    pub(crate) fn set_now(&mut self, now: Duration) {
        self.now = now;
    }

    /// Writes the entries for the whole file, and returns whether there is anything to commit.
    pub(crate) fn finish(mut self) -> Step<bool> {
        if self.changed {
            self.set_meta("version", &LAYOUT.to_be_bytes())?;
            self.set_meta("fence", &self.fence.to_be_bytes())?;
            self.set_meta("time", &encode_time(self.now))?;
        }
        Ok(self.changed)
    }

    /// Ends the runs that were in flight when the file was last closed.
    ///
    /// No process can still hold their leases.
    pub(crate) fn orphan(&mut self) -> Step<()> {
        // An empty file is committed too, to record its version and the time of its creation.
        self.changed = true;
        for key in self.keys_in_flight(None)? {
            let orphaned = self.on(&key, |slot, now| {
                machine::update(slot, now);
                match slot {
                    Some(StoredRecord {
                        state: RecordState::InFlight { stage: RunStage::Reserved, .. },
                        ..
                    }) => *slot = None,
                    Some(StoredRecord {
                        owner,
                        fence,
                        state: RecordState::InFlight { unknown_for, .. },
                        ..
                    }) => {
                        let (hold, unknown_for) = (Hold::new(key, *owner, *fence), *unknown_for);
                        let _ = machine::abandon(slot, &hold, unknown_for, now);
                    }
                    _ => {}
                }
            });
            readable(orphaned)?;
        }
        Ok(())
    }

    pub(crate) fn claim(&mut self, claim: &Claim) -> Step<ClaimOutcome<Vec<u8>>> {
        if claim.reserve > self.limits.payload {
            return Err(StoreError::Full.into());
        }
        let (mut slot, before) = self.read(&claim.key)?;
        let fence = self.fence.saturating_add(1);
        let mut used = self.fence;
        let answer = machine::claim(&mut slot, claim, self.now, || {
            used = fence;
            fence
        });
        // At its maximum, the counter would give the same fence twice.
        if used == fence && fence == u64::MAX {
            return Err(StoreError::Garbled("the counter of fences").into());
        }
        if before.is_none() && slot.is_some() {
            if self.records.len()? >= self.limits.records {
                self.sweep(MAKE_ROOM)?;
            }
            if self.records.len()? >= self.limits.records {
                return Err(StoreError::Full.into());
            }
        }
        self.fence = used;
        self.write(&claim.key, before, slot)?;
        Ok(answer)
    }

    pub(crate) fn renew(&mut self, holds: &[Hold], lease: Duration) -> Step<Vec<StepOutcome>> {
        let renewed = holds.iter().map(|hold| {
            let renewed = self.on(&hold.key, |slot, now| machine::renew(slot, hold, lease, now));
            // An unreadable record must not cost the leases of the others.
            Ok(readable(renewed)?.unwrap_or(StepOutcome::Stale))
        });
        renewed.collect()
    }

    pub(crate) fn checkpoint(&mut self, hold: &Hold, kept: Vec<u8>) -> Step<StepOutcome> {
        self.fits(Some(&kept))?;
        self.on(&hold.key, |slot, now| machine::checkpoint(slot, hold, kept, now))
    }

    pub(crate) fn complete(
        &mut self,
        hold: &Hold,
        completed: Completed<Vec<u8>>,
        ttl: Duration,
    ) -> Step<StepOutcome> {
        self.fits(completed.payload.as_ref())?;
        self.on(&hold.key, |slot, now| machine::complete(slot, hold, completed, ttl, now))
    }

    pub(crate) fn resolve(
        &mut self,
        key: &StorageKey,
        fence: u64,
        resolution: Resolution<Vec<u8>>,
    ) -> Step<StepOutcome> {
        if let Resolution::Completed(completed, _) = &resolution {
            self.fits(completed.payload.as_ref())?;
        }
        self.on(key, |slot, now| machine::resolve(slot, fence, resolution, now))
    }

    fn fits(&self, payload: Option<&Vec<u8>>) -> Step<()> {
        match payload.is_some_and(|payload| payload.len() > self.limits.payload) {
            true => Err(StoreError::Full.into()),
            false => Ok(()),
        }
    }

    pub(crate) fn unknown(
        &self,
        after: Option<StorageKey>,
        limit: usize,
    ) -> Step<Vec<UnknownOperation>> {
        let mut found = Vec::new();
        for key in self.keys_in_flight(after)? {
            found.extend(self.told_unknown(key)?);
        }
        let lapsed = found.len();
        for entry in self.unknown.range::<&[u8; 32]>(behind(after.as_ref()))? {
            if found.len() - lapsed >= limit {
                break;
            }
            found.extend(self.told_unknown(StorageKey::from_bytes(*entry?.0.value()))?);
        }
        found.sort_by_key(|operation| operation.key);
        found.truncate(limit);
        Ok(found)
    }

    /// Counts the unknown operations.
    ///
    /// They are the records written as unknown whose retention has not ended, and the records in
    /// flight whose lease has ended since the last write.
    pub(crate) fn count_unknown(&self) -> Step<u64> {
        let mut count = self.unknown.len()?;
        for entry in self.until.range::<&[u8; 44]>(..=&index(self.now, LAST))? {
            let key = key_of(entry?.0.value());
            if self.unknown.get(key.as_bytes())?.is_some() {
                count = count.saturating_sub(1);
            } else if self.in_flight.get(key.as_bytes())?.is_some() {
                count += u64::from(self.told_unknown(key)?.is_some());
            }
        }
        Ok(count)
    }

    pub(crate) fn sweep(&mut self, limit: usize) -> Step<usize> {
        let mut over = Vec::new();
        for entry in self.until.range::<&[u8; 44]>(..=&index(self.now, LAST))? {
            if over.len() >= limit {
                break;
            }
            let key = key_of(entry?.0.value());
            // An unreadable record stays, and must not keep later records from being swept.
            if readable(self.read(&key))?.is_some() {
                over.push(key);
            }
        }
        for key in &over {
            self.on(key, machine::update)?;
        }
        Ok(over.len())
    }

    /// Applies a transition of the state machine to a record.
    pub(crate) fn on<T>(
        &mut self,
        key: &StorageKey,
        step: impl FnOnce(&mut Slot, Duration) -> T,
    ) -> Step<T> {
        let (mut slot, before) = self.read(key)?;
        let answer = step(&mut slot, self.now);
        self.write(key, before, slot)?;
        Ok(answer)
    }

    fn read(&self, key: &StorageKey) -> Step<(Slot, Option<Stored>)> {
        let Some(found) = self.records.get(key.as_bytes())? else { return Ok((None, None)) };
        let bytes = found.value();
        let record = decode(key, bytes)?;
        let stored = Stored { listed: listed(&record), until: record.until, bytes: bytes.to_vec() };
        Ok((Some(record), Some(stored)))
    }

    fn write(&mut self, key: &StorageKey, before: Option<Stored>, after: Slot) -> Step<()> {
        let after = after.map(|record| Stored {
            listed: listed(&record),
            until: record.until,
            bytes: encode(key, &record),
        });
        if before == after {
            return Ok(());
        }
        self.changed = true;
        let bytes = key.as_bytes();
        if let Some(before) = before {
            self.until.remove(&index(before.until, *bytes))?;
            match before.listed {
                Listed::InFlight => drop(self.in_flight.remove(bytes)?),
                Listed::Unknown => drop(self.unknown.remove(bytes)?),
                Listed::Nowhere => {}
            }
        }
        match after {
            None => drop(self.records.remove(bytes)?),
            Some(after) => {
                self.records.insert(bytes, after.bytes.as_slice())?;
                self.until.insert(&index(after.until, *bytes), ())?;
                match after.listed {
                    Listed::InFlight => drop(self.in_flight.insert(bytes, ())?),
                    Listed::Unknown => drop(self.unknown.insert(bytes, ())?),
                    Listed::Nowhere => {}
                }
            }
        }
        Ok(())
    }

    fn keys_in_flight(&self, after: Option<StorageKey>) -> Step<Vec<StorageKey>> {
        let found = self.in_flight.range::<&[u8; 32]>(behind(after.as_ref()))?;
        found.map(|entry| Ok(StorageKey::from_bytes(*entry?.0.value()))).collect()
    }

    fn told_unknown(&self, key: StorageKey) -> Step<Option<UnknownOperation>> {
        let record = readable(self.read(&key))?.and_then(|(slot, _)| slot);
        Ok(record.and_then(|record| machine::unknown(key, &record, self.now)))
    }
}

/// A record as it is in the tables.
#[derive(PartialEq)]
struct Stored {
    listed: Listed,
    until: Duration,
    bytes: Vec<u8>,
}

/// The list of keys that a record is in.
#[derive(PartialEq)]
enum Listed {
    InFlight,
    Unknown,
    Nowhere,
}

fn listed<P>(record: &StoredRecord<P>) -> Listed {
    match record.state {
        RecordState::InFlight { .. } => Listed::InFlight,
        RecordState::Unknown { .. } => Listed::Unknown,
        RecordState::Completed { .. } => Listed::Nowhere,
    }
}

/// Returns `None` for a rejection, for use in steps over many records.
fn readable<T>(step: Step<T>) -> Step<Option<T>> {
    match step {
        Ok(read) => Ok(Some(read)),
        Err(Failure::Refused(_)) => Ok(None),
        Err(Failure::Broken(error)) => Err(Failure::Broken(error)),
    }
}

const LAST: [u8; 32] = [u8::MAX; 32];

fn index(until: Duration, key: [u8; 32]) -> [u8; 44] {
    let mut bytes = [0; 44];
    bytes[..12].copy_from_slice(&encode_time(until));
    bytes[12..].copy_from_slice(&key);
    bytes
}

fn key_of(index: &[u8; 44]) -> StorageKey {
    let mut key = [0; 32];
    key.copy_from_slice(&index[12..]);
    StorageKey::from_bytes(key)
}

fn behind(after: Option<&StorageKey>) -> (std::ops::Bound<&[u8; 32]>, std::ops::Bound<&[u8; 32]>) {
    use std::ops::Bound::{Excluded, Unbounded};
    (after.map_or(Unbounded, |after| Excluded(after.as_bytes())), Unbounded)
}
