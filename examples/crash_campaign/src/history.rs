//! The responses that clients got, and the faults that hit their keys, as recorded by the driver.

use std::{collections::BTreeMap, sync::Mutex, time::Instant};

use crate::{
    process::{Answered, lock},
    protocol::{Policy, Reply},
};

#[derive(Debug)]
pub(crate) struct KeyHistory {
    pub(crate) policy: Policy,
    /// The distinct bodies of all 2xx responses.
    pub(crate) bodies: Vec<String>,
    pub(crate) mismatches: u32,
    pub(crate) odd: Vec<String>,
    /// The time at which a client first learned that the outcome is unknown.
    pub(crate) unknown_since: Option<Instant>,
    /// The fence of the lost run, as the store reported it then.
    pub(crate) unknown_fence: Option<u64>,
    /// Set when a request that was sent after that got a 2xx response.
    pub(crate) done_after_unknown: bool,
    /// The faults that hit the key.
    pub(crate) hits: Vec<String>,
    /// The responses in order, each with the times of its request and its arrival.
    pub(crate) trail: Vec<String>,
    /// The number of clients that do not know the outcome yet.
    pub(crate) unanswered: u32,
}

impl KeyHistory {
    /// Returns the kind of the last fault that hit the key, or `None` if no fault hit it.
    ///
    /// The name of the worker and the point are left out.
    pub(crate) fn cause(&self) -> Option<String> {
        let hit = self.hits.last()?;
        let (whom, what) = hit.split_once(' ')?;
        let whom = if whom == "store" { whom } else { "worker" };
        let what = what.split([' ', ':']).next()?;
        Some(format!("{whom} {what}"))
    }
}

#[derive(Debug)]
pub(crate) struct History {
    begun: Instant,
    keys: Mutex<BTreeMap<String, KeyHistory>>,
}

impl Default for History {
    fn default() -> Self {
        Self { begun: Instant::now(), keys: Mutex::default() }
    }
}

impl History {
    pub(crate) fn begin(&self, key: &str, policy: Policy) {
        let history = KeyHistory {
            policy,
            bodies: Vec::new(),
            mismatches: 0,
            odd: Vec::new(),
            unknown_since: None,
            unknown_fence: None,
            done_after_unknown: false,
            hits: Vec::new(),
            trail: Vec::new(),
            unanswered: 0,
        };
        lock(&self.keys).insert(key.to_owned(), history);
    }

    pub(crate) fn note(&self, answered: Answered) {
        let Answered { key, reply, sent } = answered;
        let (asked, now) = (sent.duration_since(self.begun), self.begun.elapsed());
        self.with(&key, |history| {
            history.trail.push(format!("{}-{} ms {reply}", asked.as_millis(), now.as_millis()));
            Self::note_reply(history, reply, sent);
        });
    }

    fn note_reply(history: &mut KeyHistory, reply: Reply, sent: Instant) {
        match reply {
            Reply::Done(body) => {
                history.done_after_unknown |=
                    history.unknown_since.is_some_and(|since| since < sent);
                if !history.bodies.contains(&body) {
                    history.bodies.push(body);
                }
            }
            Reply::Unknown => {
                history.unknown_since.get_or_insert_with(Instant::now);
            }
            Reply::Mismatch => history.mismatches += 1,
            Reply::Odd(what) => history.odd.push(what),
            Reply::InFlight | Reply::Unavailable | Reply::Found(_) => {}
        }
    }

    pub(crate) fn hit(&self, keys: &[String], fault: &str) {
        for key in keys {
            self.with(key, |history| {
                // A fault that comes later cannot be the cause of the unknown outcome.
                let first = history.hits.last().is_none_or(|last| last != fault);
                if first && history.unknown_since.is_none() {
                    history.hits.push(fault.to_owned());
                }
            });
        }
    }

    pub(crate) fn with<T>(&self, key: &str, what: impl FnOnce(&mut KeyHistory) -> T) -> Option<T> {
        lock(&self.keys).get_mut(key).map(what)
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        lock(&self.keys).keys().cloned().collect()
    }

    pub(crate) fn take(&self) -> BTreeMap<String, KeyHistory> {
        std::mem::take(&mut lock(&self.keys))
    }
}
