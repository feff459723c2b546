//! The request of a call, kept for its next attempt.

use super::{config::Config, replay::Replay};
use crate::RetryHint;

/// The request, for as long as it may be needed again.
pub(super) enum Replayable<Req> {
    /// It cannot be sent again, or the last attempt has it.
    No,
    /// Only if the attempt before is proven not to have reached the service.
    IfUnsent(Req),
    Yes(Req),
}

impl<Req> Replayable<Req> {
    /// What to send in an attempt, and what stays for the next.
    #[inline]
    pub(super) fn split<P>(original: Req, attempt: u32, config: &Config, replay: &P) -> (Req, Self)
    where
        P: Replay<Req>,
    {
        if attempt > config.retries {
            return (original, Self::No);
        }
        if let Some(copy) = replay.replay(&original) {
            return (copy, Self::Yes(original));
        }
        match replay.replay_unsent(&original) {
            Some(copy) => (copy, Self::IfUnsent(original)),
            None => (original, Self::No),
        }
    }

    /// Returns whether the request was kept and may be sent again after a failure with this hint.
    pub(super) fn may_follow(&self, hint: RetryHint) -> bool {
        match self {
            Self::No => false,
            Self::IfUnsent(_) => matches!(hint, RetryHint::Unsent | RetryHint::Unprocessed),
            Self::Yes(_) => true,
        }
    }

    /// Makes a kept request ready to be sent again; `false` if it was not kept, or can no more be sent.
    pub(super) fn prepare<P: Replay<Req>>(&self, replay: &P) -> bool {
        match self {
            Self::No => false,
            Self::IfUnsent(original) | Self::Yes(original) => replay.prepare(original),
        }
    }
}
