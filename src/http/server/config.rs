use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use http::StatusCode;

/// What is believed of that which a caller says about its call.
///
/// Whatever it says, it can only have less time: nothing in a request lengthens a limit, forces or
/// forbids a retry, or makes a request replayable, and no header moves state that callers share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trust {
    /// The time that the caller has left narrows the server's own limit, and the number of its attempt
    /// is recorded. The default.
    #[default]
    Inbound,
    /// Nothing is read.
    None,
}

/// Settings of a server, and its counter.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) trust: Trust,
    pub(super) limit: Option<Duration>,
    /// The status of a bulkhead without room, where it is not that of the rejection.
    pub(super) full: Option<StatusCode>,
    pub(super) for_envoy: bool,
    pub(super) body_deadline: bool,
    pub(super) body_idle: Option<Duration>,
    pub(super) malformed: Arc<AtomicU64>,
}
