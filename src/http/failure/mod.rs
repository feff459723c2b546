//! Classification of errors, by their causes.
//!
//! [`HttpClassifier`](super::HttpClassifier) has the rules. The tables of `docs/http.md` have each
//! kind of error of hyper, h2, reqwest and tonic.

#[cfg(feature = "hyper")]
mod hyper;
mod known;
#[cfg(feature = "reqwest")]
mod reqwest;
#[cfg(feature = "tonic")]
mod tonic;

use std::{error::Error as StdError, io};

use self::known::{Known, OWN, TRANSIENT, causes, of_io};
use super::{cause::Cause, replay::ReplayBodyError};
use crate::{Outcome, RetryHint};

/// Returns the outcome of an error, and its retry hint.
pub(super) fn judge(error: &impl Cause) -> (Outcome, RetryHint) {
    let known = causes(error.cause()).find_map(meaning).unwrap_or(TRANSIENT);
    #[cfg(feature = "reqwest")]
    let known = reqwest::behind_redirects(known, error.cause());
    known
}

/// Returns the meaning of an error, or `None` if its causes decide.
fn meaning(error: &(dyn StdError + 'static)) -> Option<Known> {
    if let Some(io) = error.downcast_ref::<io::Error>() {
        return of_io(io);
    }
    // The caller's own body failed, or a newer attempt has replaced it.
    if error.is::<ReplayBodyError>() || is_malformed(error) {
        return Some(OWN);
    }
    #[cfg(feature = "reqwest")]
    if let Some(error) = error.downcast_ref() {
        return reqwest::meaning(error);
    }
    #[cfg(feature = "hyper")]
    if let Some(known) = hyper::meaning(error) {
        return Some(known);
    }
    #[cfg(feature = "tonic")]
    if let Some(known) = tonic::meaning(error) {
        return Some(known);
    }
    None
}

/// Returns whether a request could not be built, because one of its parts is invalid.
fn is_malformed(error: &(dyn StdError + 'static)) -> bool {
    error.is::<http::Error>()
        || error.is::<http::uri::InvalidUri>()
        || error.is::<http::uri::InvalidUriParts>()
        || error.is::<http::header::InvalidHeaderName>()
        || error.is::<http::header::InvalidHeaderValue>()
}
