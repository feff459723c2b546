//! The results that callers get of a cache.

use std::{panic::resume_unwind, time::Duration};

use tokio::time::Instant;

use super::{
    ask::Stale,
    counts::Result as Counted,
    entry::{Decision, Entry},
    parts::Parts,
    rules::{Forwarded, Given, How, Rules},
    shared_call::Ended,
    task::Reply,
};
use crate::{
    CarryRejection, Fault, Outcome,
    call::{
        completion::Completion,
        degraded::{Degraded, DegradedBy, Reason, ResponseSource},
    },
    error::{SharedFailure, TimedOut},
    telemetry::Event,
};

pub(super) fn forwarded(had_entry: bool) -> Forwarded {
    if had_entry { Forwarded::Stale } else { Forwarded::Miss }
}

impl<K, V, R, C> Parts<K, V, R, C> {
    /// Gives an entry that is not fresh, because the service has failed or takes too long.
    #[cold]
    pub(super) fn give_stale<Req, Res, M>(
        &self,
        entry: &Entry<V>,
        reason: Reason,
        how: How,
    ) -> Option<Res>
    where
        R: Rules<Req, Res, K, V>,
        M: Completion<Res>,
    {
        let now = Instant::now();
        let age = entry.age(now);
        let left = entry.left(age);
        let mut response = self.rules.replay(entry.value()?, Given { age, left, how });
        let reporter = self.shared.config.reporter.get();
        reporter.emit(Event::StaleGiven { reason: reason.as_str(), age });
        self.shared.count(Counted::Stale);
        ResponseSource::Degraded(DegradedBy::Stale).report();
        M::mark_degraded(&mut response, Degraded::new(DegradedBy::Stale, reason).aged(age));
        Some(response)
    }

    /// Gives an entry as it was decided.
    pub(super) fn give<Req, Res, M>(&self, entry: &Entry<V>, decision: Decision) -> Option<Res>
    where
        R: Rules<Req, Res, K, V>,
        M: Completion<Res>,
    {
        let (how, counted) = match decision {
            Decision::Hit => (How::Fresh, Counted::Hit),
            Decision::Renew => (How::Renewed, Counted::Stale),
            _ => {
                // Only a failure holds off.
                let reason = entry.failed().unwrap_or(Reason::Failed(Fault::Transient));
                return self.give_stale::<Req, Res, M>(entry, reason, How::HeldOff);
            }
        };
        let now = Instant::now();
        let age = entry.age(now);
        let left = entry.left(age);
        let response = self.rules.replay(entry.value()?, Given { age, left, how });
        self.shared.count(counted);
        ResponseSource::Cache.report();
        Some(response)
    }

    /// Returns the rejection of a call that took too long.
    pub(super) fn timed_out(&self, limit: Duration) -> TimedOut {
        TimedOut::by(self.shared.config.reporter.name().cloned(), limit)
    }

    /// Returns the result for the caller that began a shared call.
    pub(super) fn take_reply<Req, Res, E, M>(
        &self,
        reply: Option<Reply<Res, E>>,
        stale: &mut Stale<V>,
    ) -> Result<Res, E>
    where
        R: Rules<Req, Res, K, V>,
        M: Completion<Res>,
        E: CarryRejection,
    {
        let (result, reason) = match reply {
            Some(Reply::Done(result, reason)) => (result, reason),
            Some(Reply::Panicked(panic)) => resume_unwind(panic),
            // The runtime of the task has ended.
            None => {
                let name = self.shared.config.reporter.name().cloned();
                let ended = SharedFailure::by(name, Outcome::Ignored, None, "cancelled".into());
                (Err(E::from_rejection(ended.into())), None)
            }
        };
        if let (Some(entry), Some(reason)) = (stale.entry.take(), reason) {
            if let Some(response) = self.give_stale::<Req, Res, M>(&entry, reason, How::Failed) {
                return Ok(response);
            }
        }
        self.shared.count(Counted::Miss);
        result.map(|mut response| {
            self.rules.mark(&mut response, forwarded(stale.had_entry));
            response
        })
    }

    /// Returns the result for a caller that joined, or `None` if it has to ask for itself.
    pub(super) fn take_ended<Req, Res, E, M>(
        &self,
        ended: &Ended<V>,
        stale: &mut Stale<V>,
    ) -> Option<Result<Res, E>>
    where
        R: Rules<Req, Res, K, V>,
        M: Completion<Res>,
        E: CarryRejection,
    {
        let failed = match ended {
            Ended::Response { failed, .. } | Ended::Error { failed, .. } => *failed,
            Ended::NotShareable { failed } => *failed,
            Ended::Lost => return None,
        };
        if let Some(entry) = stale.entry.take_if(|_| failed) {
            let reason = entry.failed().unwrap_or(Reason::Failed(Fault::Transient));
            if let Some(response) = self.give_stale::<Req, Res, M>(&entry, reason, How::Failed) {
                return Some(Ok(response));
            }
        }
        if matches!(ended, Ended::NotShareable { .. }) {
            return None;
        }
        self.shared.count(Counted::Collapsed);
        Some(match ended {
            Ended::Response { value, .. } => {
                let left = i64::try_from(self.shared.times().ttl.as_secs()).unwrap_or(i64::MAX);
                let how = How::Collapsed(forwarded(stale.had_entry));
                let given = Given { age: Duration::ZERO, left, how };
                Ok(self.rules.replay(value, given))
            }
            Ended::Error { rejection, .. } => Err(E::from_rejection(rejection.clone())),
            Ended::NotShareable { .. } | Ended::Lost => return None,
        })
    }
}
