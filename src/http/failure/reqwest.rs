//! The errors of reqwest.

use std::error::Error as StdError;

use super::known::{Known, OWN, TIMED_OUT, TRANSIENT, causes};
use crate::{
    Fault, Outcome, RetryHint,
    http::{
        reqwest::ReqwestError,
        status::{outcome_of_status, text_of_status},
    },
};

const FINAL: Known = Known {
    outcome: Outcome::Failure(Fault::Permanent),
    hint: RetryHint::Unstated,
    error_type: Some("redirect"),
};

pub(super) fn meaning(error: &reqwest::Error) -> Option<Known> {
    if error.is_builder() {
        return Some(OWN);
    }
    if error.is_redirect() {
        // The servers responded. The same request would be redirected in the same way.
        return Some(FINAL);
    }
    let status = error.status()?;
    let outcome = match outcome_of_status(status, &http::HeaderMap::new()) {
        Outcome::Success => FINAL.outcome,
        outcome => outcome,
    };
    Some(Known { outcome, hint: RetryHint::Unstated, error_type: text_of_status(status) })
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
    let hint = if answered { RetryHint::Unstated } else { known.hint };
    match (known.outcome, known.hint) {
        // Without a proof, a request that was given back is an ordinary failure. A request that is
        // safe to repeat is then retried.
        (Outcome::Ignored, RetryHint::Unsent | RetryHint::Unprocessed) if answered => {
            Known { error_type: known.error_type, ..TRANSIENT }
        }
        (Outcome::Failure(Fault::Transient), RetryHint::Unsent) if late => {
            Known { hint, ..TIMED_OUT }.named("connect_timeout")
        }
        (Outcome::Failure(Fault::Transient), RetryHint::Unstated) if late => TIMED_OUT,
        _ => Known { hint, ..known },
    }
}
