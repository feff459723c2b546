//! The limits of a response body while a read is pending.

use std::{future::Future, pin::Pin, task::Context, time::Duration};

use tokio::time::{Instant, Sleep, sleep_until};

use super::reporters::BodyOwner;
use crate::{
    Fault, Outcome, Rejection,
    error::TimedOut,
    telemetry::{Event, Kind},
};

/// The longest time between the wake-up of a reader and its next poll.
pub(super) const PROMPTLY: Duration = Duration::from_secs(1);

pub(super) const TIMED_OUT: Outcome = Outcome::Failure(Fault::TimedOut);

/// The limits of the body of a response.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyLimits {
    /// The longest time that a read waits for a frame.
    pub(super) idle: Option<Duration>,
    /// The deadline of the last frame.
    pub(super) deadline: Option<Instant>,
    /// The instant at which the call began, for the message of the error.
    pub(super) began: Instant,
}

/// The limit that a body has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyTimeout {
    Idle,
    Deadline,
}

impl BodyLimits {
    /// Returns the nearer end of a wait that began at `since`, or `None` without a limit.
    pub(super) fn end(&self, since: Instant) -> Option<(Instant, BodyTimeout)> {
        let idle = self.idle.and_then(|idle| since.checked_add(idle));
        match (idle, self.deadline) {
            (Some(idle), Some(deadline)) if deadline < idle => {
                Some((deadline, BodyTimeout::Deadline))
            }
            (Some(idle), _) => Some((idle, BodyTimeout::Idle)),
            (None, deadline) => deadline.map(|deadline| (deadline, BodyTimeout::Deadline)),
        }
    }

    /// Reports the limit that was reached, and returns its rejection.
    pub(super) fn late(&self, reached: BodyTimeout, owner: &dyn BodyOwner) -> Rejection {
        let kind = match reached {
            BodyTimeout::Idle => Kind::IdleBody,
            BodyTimeout::Deadline => Kind::Body,
        };
        let rejection = self.rejection(reached);
        owner.reporters().of(kind).emit(Event::Rejected { rejection: &rejection });
        rejection
    }

    /// Returns the rejection of the limit that was reached.
    pub(super) fn rejection(&self, reached: BodyTimeout) -> Rejection {
        let (name, limit) = self.name_and_limit(reached);
        TimedOut::new(name, limit).into()
    }

    fn name_and_limit(&self, reached: BodyTimeout) -> (&'static str, Duration) {
        match (reached, self.deadline) {
            (BodyTimeout::Deadline, Some(deadline)) => {
                ("response body", deadline.saturating_duration_since(self.began))
            }
            _ => ("idle response body", self.idle.unwrap_or_default()),
        }
    }

    /// Returns whether the deadline of the last frame has passed.
    pub(super) fn are_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Returns the limit that a waiting reader has reached, or `None` if it may wait longer.
    pub(super) fn poll(
        &self,
        waiting_since: &mut Option<Instant>,
        pinned: &mut Option<Pin<Box<Sleep>>>,
        cx: &mut Context<'_>,
    ) -> Option<BodyTimeout> {
        let since = *waiting_since.get_or_insert_with(Instant::now);
        let (end, reached) = self.end(since)?;
        let timer = pinned.get_or_insert_with(|| Box::pin(sleep_until(end)));
        if timer.deadline() != end {
            timer.as_mut().reset(end);
        }
        // A timer is also pending if an earlier poll has used up the task's coop budget.
        let pending = timer.as_mut().poll(cx).is_pending();
        let now = Instant::now();
        if pending && now < end {
            return None;
        }
        // The timer woke the reader, but the reader did not poll promptly. It was not waiting, and
        // its wait begins again.
        let awake = end.checked_add(PROMPTLY).is_none_or(|end| now <= end);
        if !awake && self.deadline.is_none_or(|deadline| now < deadline) {
            *waiting_since = None;
            return self.poll(waiting_since, pinned, cx);
        }
        Some(reached)
    }
}
