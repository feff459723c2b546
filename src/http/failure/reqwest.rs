//! The errors of reqwest.

use std::error::Error as StdError;

use super::known::{FINAL, Known, OWN, TIMED_OUT, TRANSIENT, UNREACHABLE, causes};
use crate::{
    Outcome, RetryHint,
    http::{reqwest::ReqwestError, status::outcome_of_status},
};

pub(super) fn meaning(error: &reqwest::Error) -> Option<Known> {
    if error.is_builder() {
        return Some(OWN);
    }
    if error.is_redirect() {
        // The servers responded. The same request would be redirected in the same way.
        return Some(FINAL);
    }
    match outcome_of_status(error.status()?, &http::HeaderMap::new()) {
        Outcome::Success => Some(FINAL),
        outcome => Some((outcome, RetryHint::Unstated)),
    }
}

/// Returns the meaning of an error that reqwest may have returned.
///
/// A timeout is considered last, because it may be in the caller's own body. If a server has
/// responded with a redirect, an error of the next request proves nothing.
pub(super) fn behind_redirects(known: Known, error: Option<&(dyn StdError + 'static)>) -> Known {
    let mut answered = false;
    let mut late = false;
    for cause in causes(error) {
        answered |= cause.downcast_ref().is_some_and(ReqwestError::was_answered);
        late |= cause.downcast_ref().is_some_and(reqwest::Error::is_timeout);
    }
    match known {
        // Without a proof, a request that was given back is an ordinary failure. A request that is
        // safe to repeat is then retried.
        (Outcome::Ignored, RetryHint::Unsent | RetryHint::Unprocessed) if answered => TRANSIENT,
        TRANSIENT | UNREACHABLE if late && answered => TIMED_OUT,
        TRANSIENT | UNREACHABLE if late => (TIMED_OUT.0, known.1),
        (outcome, _) if answered => (outcome, RetryHint::Unstated),
        known => known,
    }
}
