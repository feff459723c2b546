//! Classification of errors, by their causes.

use std::{error::Error as StdError, io, iter::successors};

use super::{cause::Cause, replay::ReplayBodyError};
use crate::{Fault, Outcome, RetryHint};

/// Returns an error and its causes, the outermost first.
fn causes(error: &impl Cause) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    successors(error.cause(), |&error| {
        // The `source` of an `io::Error` skips the error that it wraps.
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(within) => Some(within),
            None => error.source(),
        }
    })
}

/// Returns the outcome of an error.
pub(super) fn outcome(error: &impl Cause) -> Outcome {
    causes(error).find_map(known).unwrap_or(Outcome::Failure(Fault::Transient))
}

fn known(error: &(dyn StdError + 'static)) -> Option<Outcome> {
    if error.downcast_ref::<ReplayBodyError>().is_some() {
        // The caller's own body failed, or a newer attempt has replaced it.
        return Some(Outcome::Ignored);
    }
    if let Some(io) = error.downcast_ref::<io::Error>() {
        return (io.kind() == io::ErrorKind::TimedOut).then_some(TIMED_OUT);
    }
    // Over HTTP/1, the caller's own body failed. Its error says nothing about the service, even if
    // it is a refused connection.
    #[cfg(feature = "hyper")]
    if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_user) {
        return Some(Outcome::Ignored);
    }
    #[cfg(feature = "hyper")]
    if let Some(stream) = error.downcast_ref::<h2::Error>() {
        // Over HTTP/2, an error of the caller's own body is visible only as a reset that neither
        // the server nor the library sent.
        let own = stream.is_reset() && !stream.is_remote() && !stream.is_library();
        return own.then_some(Outcome::Ignored);
    }
    #[cfg(feature = "tonic")]
    {
        if error.downcast_ref::<tonic::TimeoutExpired>().is_some() {
            return Some(TIMED_OUT);
        }
        // A status made from another error is classified by that error, not by its code.
        if let Some(status) = error.downcast_ref::<tonic::Status>() {
            let alone = status.source().is_none() || super::grpc::timed_out(status);
            return alone.then(|| super::grpc::outcome_of_status(status));
        }
    }
    #[cfg(feature = "reqwest")]
    if error.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_timeout) {
        return Some(TIMED_OUT);
    }
    None
}

const TIMED_OUT: Outcome = Outcome::Failure(Fault::TimedOut);

/// Returns the retry hint of an error.
pub(super) fn hint(error: &impl Cause) -> RetryHint {
    causes(error).find_map(proof).unwrap_or_default()
}

/// Returns the hint if an error proves that the request was not processed.
///
/// A broken connection proves nothing. A request that was cancelled in the connection pool proves
/// nothing either.
fn proof(error: &(dyn StdError + 'static)) -> Option<RetryHint> {
    #[cfg(feature = "reqwest")]
    if let Some(reqwest) = error.downcast_ref::<super::reqwest::ReqwestError>() {
        return reqwest.was_answered().then_some(RetryHint::Unstated);
    }
    if let Some(io) = error.downcast_ref::<io::Error>() {
        return (io.kind() == io::ErrorKind::ConnectionRefused).then_some(RetryHint::Unsent);
    }
    #[cfg(feature = "hyper")]
    {
        if let Some(client) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
            return client.is_connect().then_some(RetryHint::Unsent);
        }
        if let Some(stream) = error.downcast_ref::<h2::Error>() {
            let rejected = stream.reason() == Some(h2::Reason::REFUSED_STREAM) && stream.is_reset();
            let unprocessed = stream.is_remote() && (rejected || stream.is_go_away());
            return unprocessed.then_some(RetryHint::Unprocessed);
        }
    }
    None
}
