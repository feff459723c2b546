//! The messages between driver and workers, one line each, over the worker's input and output.

use std::{fmt, str::FromStr};

use buttress::idempotency::{Key, StorageKey};

use crate::faults::Fault;

/// The handling of an operation with an unknown outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// It is kept. Every later request gets "unknown".
    Quarantine,
    /// The ledger is checked, and a charged operation is completed under a new fence.
    Reconcile,
}

/// A request, as it reaches the handler.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) key: String,
    pub(crate) payload: String,
    pub(crate) policy: Policy,
    /// The time that the handler works before and after it charges, in milliseconds.
    pub(crate) work: (u64, u64),
    pub(crate) fault: Option<Fault>,
}

/// A request to a worker.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Call(Call),
    /// Asks the store itself for its record of a key.
    Probe(String),
    /// Makes the store stop responding for this number of milliseconds.
    Stall(u64),
}

/// A response to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// A 2xx response, with its body.
    Done(String),
    /// 409 with `Retry-After`.
    InFlight,
    /// 409 without it: the outcome is unknown.
    Unknown,
    /// 422.
    Mismatch,
    /// 503.
    Unavailable,
    /// Any other response, which no request of the campaign should get.
    Odd(String),
    /// The store's record, in response to a probe.
    Found(Found),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Absent,
    InFlight,
    Completed(String),
    Unknown(u64),
    Failed(String),
}

/// Returns the storage key of a key. All keys belong to one tenant and one operation.
pub(crate) fn storage_key(key: &str) -> Option<StorageKey> {
    Some(StorageKey::of(b"", &[], &Key::new(key).ok()?))
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(Call { key, payload, policy, work: (before, after), fault }) => {
                let policy = match policy {
                    Policy::Quarantine => "quarantine",
                    Policy::Reconcile => "reconcile",
                };
                write!(f, "call {key} {payload} {policy} {before} {after} ")?;
                match fault {
                    Some(fault) => fault.fmt(f),
                    None => f.write_str("-"),
                }
            }
            Self::Probe(key) => write!(f, "probe {key}"),
            Self::Stall(millis) => write!(f, "stall {millis}"),
        }
    }
}

impl FromStr for Ask {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["call", key, payload, policy, before, after, fault] => Ok(Self::Call(Call {
                key: key.to_owned(),
                payload: payload.to_owned(),
                policy: match policy {
                    "quarantine" => Policy::Quarantine,
                    "reconcile" => Policy::Reconcile,
                    _ => return Err(()),
                },
                work: (before.parse().map_err(drop)?, after.parse().map_err(drop)?),
                fault: match fault {
                    "-" => None,
                    fault => Some(fault.parse()?),
                },
            })),
            ["probe", key] => Ok(Self::Probe(key.to_owned())),
            ["stall", millis] => Ok(Self::Stall(millis.parse().map_err(drop)?)),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(body) => write!(f, "done {body}"),
            Self::InFlight => f.write_str("in_flight"),
            Self::Unknown => f.write_str("unknown"),
            Self::Mismatch => f.write_str("mismatch"),
            Self::Unavailable => f.write_str("unavailable"),
            Self::Odd(what) => write!(f, "odd {what}"),
            Self::Found(Found::Absent) => f.write_str("found absent"),
            Self::Found(Found::InFlight) => f.write_str("found in_flight"),
            Self::Found(Found::Completed(body)) => write!(f, "found completed {body}"),
            Self::Found(Found::Unknown(fence)) => write!(f, "found unknown {fence}"),
            Self::Found(Found::Failed(why)) => write!(f, "found failed {why}"),
        }
    }
}

impl FromStr for Reply {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let words: Vec<&str> = line.splitn(3, ' ').collect();
        Ok(match words[..] {
            ["done", body] => Self::Done(body.to_owned()),
            ["in_flight"] => Self::InFlight,
            ["unknown"] => Self::Unknown,
            ["mismatch"] => Self::Mismatch,
            ["unavailable"] => Self::Unavailable,
            ["odd", ..] => Self::Odd(line["odd".len()..].trim().to_owned()),
            ["found", "absent"] => Self::Found(Found::Absent),
            ["found", "in_flight"] => Self::Found(Found::InFlight),
            ["found", "completed", body] => Self::Found(Found::Completed(body.to_owned())),
            ["found", "unknown", fence] => {
                Self::Found(Found::Unknown(fence.parse().map_err(drop)?))
            }
            ["found", "failed", why] => Self::Found(Found::Failed(why.to_owned())),
            _ => return Err(()),
        })
    }
}
