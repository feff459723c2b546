use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use http::HeaderMap;

use super::buffer::Buffer;
use crate::{
    http::{
        AutoClassifier,
        reporters::{BodyOwner, HttpReporters},
    },
    telemetry::Meter,
};

/// A function that can change the headers of an attempt.
pub(super) type OnSend = dyn Fn(&mut HeaderMap) + Send + Sync;

pub(super) struct Config {
    pub(super) classifier: Arc<AutoClassifier>,
    /// The same classifier, if it was set. The default classifier is not carried to the end of a
    /// body, because a new one costs nothing.
    pub(super) at_end: Option<Arc<AutoClassifier>>,
    pub(super) idle: Option<Duration>,
    pub(super) body_deadline: bool,
    pub(super) write: Option<Write>,
    pub(super) buffer: Option<Buffer>,
    pub(super) malformed: AtomicU64,
    pub(super) on_send: Option<Arc<OnSend>>,
    pub(super) reporters: HttpReporters,
}

impl Config {
    /// Returns the same settings, without the count of malformed headers.
    pub(super) fn fresh(&self) -> Self {
        let Self { idle, body_deadline, write, .. } = *self;
        let (classifier, at_end) = (Arc::clone(&self.classifier), self.at_end.clone());
        let (buffer, malformed) = (self.buffer.clone(), AtomicU64::new(0));
        let (on_send, reporters) = (self.on_send.clone(), self.reporters.fresh());
        Self {
            classifier,
            at_end,
            idle,
            body_deadline,
            write,
            buffer,
            malformed,
            on_send,
            reporters,
        }
    }
}

impl BodyOwner for Config {
    fn reporters(&self) -> &HttpReporters {
        &self.reporters
    }

    fn idle(&self) -> Option<Duration> {
        self.idle
    }

    fn classifier(&self) -> Option<&AutoClassifier> {
        self.at_end.as_deref()
    }

    fn bodies(&self) -> Option<&Arc<Meter>> {
        self.reporters.meter()
    }
}

/// The headers that are written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Write {
    Hop,
    /// The same headers, and the header from which an Envoy sidecar derives the timeout.
    HopAndEnvoy,
}
