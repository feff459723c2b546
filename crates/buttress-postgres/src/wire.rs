//! Conversions of values that are sent to the server, and of rows that it returns.

use std::time::Duration;

use buttress::idempotency::{
    ClaimOutcome, Fingerprint, Previous, StorageKey, StoreError, UnknownOperation,
};
use tokio_postgres::{Error, Row, error::SqlState, types::FromSql};

/// The error code of the store's functions for a record of a newer version.
///
/// The message is that version.
const NEWER: &str = "BT001";

/// The longest time span, 100 years, in microseconds.
///
/// Sums of longer spans may exceed the range of a timestamp.
const LONGEST: i64 = 100 * 365 * 24 * 60 * 60 * 1_000_000;

pub(crate) fn microseconds(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX).min(LONGEST)
}

/// Converts a fence to SQL. A fence that is out of range becomes -1, which no record has.
pub(crate) fn fence_sent(fence: u64) -> i64 {
    i64::try_from(fence).unwrap_or(-1)
}

/// Converts the error of a statement.
pub(crate) fn refused(error: Error) -> StoreError {
    let Some(refusal) = error.as_db_error() else { return StoreError::unavailable(error) };
    if refusal.code().code() == NEWER {
        return match refusal.message().parse() {
            Ok(version) => StoreError::Newer(version),
            Err(_) => StoreError::Garbled("a version that is not a number"),
        };
    }
    match *refusal.code() {
        SqlState::DISK_FULL => StoreError::Full,
        _ => StoreError::unavailable(error),
    }
}

pub(crate) fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, StoreError> {
    row.try_get(column).map_err(|_| StoreError::Garbled("a column of another type"))
}

fn span(row: &Row, column: usize) -> Result<Duration, StoreError> {
    u64::try_from(get::<i64>(row, column)?)
        .map(Duration::from_micros)
        .map_err(|_| StoreError::Garbled("a negative duration"))
}

fn fence(fence: i64) -> Result<u64, StoreError> {
    u64::try_from(fence).map_err(|_| StoreError::Garbled("a negative fence"))
}

pub(crate) fn decode_answer(row: &Row) -> Result<ClaimOutcome<Vec<u8>>, StoreError> {
    match get::<Option<i16>>(row, 0)? {
        Some(1) => {
            let taken_from: Option<i64> = get(row, 4)?;
            let previous = match taken_from {
                Some(from) => Some(Previous::new(fence(from)?, get(row, 6)?)),
                None => None,
            };
            Ok(ClaimOutcome::Claimed { fence: fence(get(row, 1)?)?, previous })
        }
        Some(2) => Ok(ClaimOutcome::InFlight { since: span(row, 2)?, lease_left: span(row, 3)? }),
        Some(3) => Ok(get::<Option<Vec<u8>>>(row, 7)?
            .map_or(ClaimOutcome::NotReplayable, ClaimOutcome::Replay)),
        Some(4) => {
            let recorded = get::<&[u8]>(row, 5)?
                .try_into()
                .map_err(|_| StoreError::Garbled("a fingerprint of another length"))?;
            Ok(ClaimOutcome::Mismatch { recorded: Fingerprint::from_bytes(recorded) })
        }
        Some(5) => Ok(ClaimOutcome::Unknown { fence: fence(get(row, 1)?)?, since: span(row, 2)? }),
        _ => Err(StoreError::Garbled("an unknown state")),
    }
}

pub(crate) fn decode_unknown(row: &Row) -> Result<UnknownOperation, StoreError> {
    let key = get::<&[u8]>(row, 0)?
        .try_into()
        .map_err(|_| StoreError::Garbled("a key of another length"))?;
    Ok(UnknownOperation::new(StorageKey::from_bytes(key), fence(get(row, 1)?)?, span(row, 2)?))
}
