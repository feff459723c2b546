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

use self::known::{Known, OWN, TRANSIENT, causes, name_of_io, of_io};
use super::{cause::Cause, replay::ReplayBodyError};

/// Returns the cause of a failure as one word, or `None` if it is not known.
pub(super) fn error_type(error: &impl Cause) -> Option<&'static str> {
    judge(error).error_type.or_else(|| causes(error.cause()).find_map(name))
}

/// Returns the meaning of an error.
pub(super) fn judge(error: &impl Cause) -> Known {
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

/// Returns the name of an error whose meaning its causes decide.
fn name(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    if let Some(io) = error.downcast_ref::<io::Error>() {
        return name_of_io(io);
    }
    #[cfg(feature = "hyper")]
    let found = hyper::name(error);
    #[cfg(not(feature = "hyper"))]
    let found = None;
    found
}

/// Returns whether a request could not be built, because one of its parts is invalid.
fn is_malformed(error: &(dyn StdError + 'static)) -> bool {
    error.is::<http::Error>()
        || error.is::<http::uri::InvalidUri>()
        || error.is::<http::uri::InvalidUriParts>()
        || error.is::<http::header::InvalidHeaderName>()
        || error.is::<http::header::InvalidHeaderValue>()
}
