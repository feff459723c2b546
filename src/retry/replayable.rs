//! The request of a call, kept for its next attempt.

use super::config::Config;
use crate::RetryHint;
use crate::replay::Replay;

/// A request, kept while another attempt may need it.
pub(super) enum Replayable<Req> {
    /// The request cannot be replayed, or the last attempt has taken it.
    No,
    /// The request may be replayed only if it is proven that the service has not processed it.
    IfUnsent(Req),
    Yes(Req),
}

impl<Req> Replayable<Req> {
    /// Splits a request into the one to send and the one to keep for the next attempt.
    #[inline]
    pub(super) fn split<P>(original: Req, attempt: u32, config: &Config, replay: &P) -> (Req, Self)
    where
        P: Replay<Req>,
    {
        if config.retries == 0 {
            return (original, Self::No);
        }
        if attempt <= config.retries {
            if let Some(copy) = replay.replay(&original) {
                return (copy, Self::Yes(original));
            }
        }
        match replay.replay_unsent(&original) {
            Some(copy) => (copy, Self::IfUnsent(original)),
            None => (original, Self::No),
        }
    }

    /// Returns whether a kept request may be replayed after a failure with this hint.
    pub(super) fn may_follow(&self, hint: RetryHint) -> bool {
        match self {
            Self::No => false,
            Self::IfUnsent(_) => matches!(hint, RetryHint::Unsent | RetryHint::Unprocessed),
            Self::Yes(_) => true,
        }
    }

    /// Returns the reason why the policy does not replay the request.
    pub(super) fn reason<P: Replay<Req>>(&self, replay: &P) -> &'static str {
        match self {
            Self::No => "policy",
            Self::IfUnsent(original) | Self::Yes(original) => replay.reason(original),
        }
    }

    /// Prepares a kept request for its next attempt. Returns `false` if it cannot be replayed.
    pub(super) fn prepare<P: Replay<Req>>(&self, replay: &P) -> bool {
        match self {
            Self::No => false,
            Self::IfUnsent(original) | Self::Yes(original) => replay.prepare(original),
        }
    }
}
