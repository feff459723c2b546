//! The errors of hyper, hyper-util and h2.
//!
//! Some kinds are private, and are recognised by their text. The tests make each of these errors,
//! so that they fail if a new version has another text.

use std::{error::Error as StdError, io};

use hyper_util::client::legacy;

use super::known::{
    Known, OWN, TIMED_OUT, TRANSIENT, UNREACHABLE, begins_with, causes, name_of_io, of_io,
};
use crate::{Outcome, RetryHint};

/// The client gave the request back before it wrote any of it.
const GIVEN_BACK: Known =
    Known { outcome: Outcome::Ignored, hint: RetryHint::Unsent, error_type: Some("closed") };
/// The server did not process the request.
const UNPROCESSED: Known =
    Known { outcome: Outcome::Ignored, hint: RetryHint::Unprocessed, error_type: Some("goaway") };

pub(super) fn meaning(error: &(dyn StdError + 'static)) -> Option<Known> {
    if let Some(error) = error.downcast_ref::<legacy::Error>() {
        of_client(error)
    } else if let Some(error) = error.downcast_ref::<hyper::Error>() {
        of_hyper(error)
    } else {
        error.downcast_ref::<h2::Error>().map(of_h2)
    }
}

fn of_client(error: &legacy::Error) -> Option<Known> {
    if error.is_connect() {
        return Some(unreachable(error));
    }
    if reads(error, "client error (Canceled)") {
        Some(GIVEN_BACK)
    } else {
        // The URI is relative, or the method or the version is not supported.
        reads(error, "client error (User").then_some(OWN)
    }
}

/// Returns the meaning of a failure to connect.
pub(super) fn unreachable(error: &(dyn StdError + 'static)) -> Known {
    causes(Some(error))
        .find_map(|cause| match cause.downcast_ref::<io::Error>() {
            Some(io) => {
                let late = Known { hint: RetryHint::Unsent, ..TIMED_OUT };
                (io.kind() == io::ErrorKind::TimedOut).then_some(late.named("connect_timeout"))
            }
            // A pooled connection was closed before the request was written to it.
            None if reads(cause, "checked out connection was closed") => Some(GIVEN_BACK),
            None => reads(cause, "invalid URL").then_some(OWN),
        })
        .unwrap_or(UNREACHABLE)
}

fn of_hyper(error: &hyper::Error) -> Option<Known> {
    if error.is_canceled() {
        Some(if was_given_back(error) { GIVEN_BACK } else { TRANSIENT.named("closed") })
    } else if error.is_user() {
        // Over HTTP/1, the caller's own body failed. Its error says nothing about the service, even
        // if it is a refused connection.
        Some(if is_gone(error) { TRANSIENT.named("closed") } else { OWN })
    } else if error.is_closed() {
        // The connection ended before it could take the request.
        Some(UNREACHABLE.named("closed"))
    } else {
        // The server did not respond to a PING.
        error.is_timeout().then_some(TIMED_OUT)
    }
}

/// Returns the name of an error of hyper that has no meaning of its own.
pub(super) fn name(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    let error = error.downcast_ref::<hyper::Error>()?;
    if error.is_incomplete_message() {
        Some("closed")
    } else {
        error.is_parse().then_some("protocol")
    }
}

/// Returns whether the connection took none of the request.
///
/// An upgrade that does not complete is canceled too, after the server has responded.
fn was_given_back(error: &hyper::Error) -> bool {
    let texts = ["connection closed", "connection was not ready"];
    error.source().is_some_and(|cause| {
        cause.is::<hyper::Error>() || texts.iter().any(|text| reads(cause, text))
    })
}

/// Returns whether the task of the connection was dropped, for example with its runtime.
fn is_gone(error: &hyper::Error) -> bool {
    // The task also ends if the caller's own body panics.
    let panicked = |cause| reads(cause, "user code panicked");
    reads(error, "dispatch task is gone") && !error.source().is_some_and(panicked)
}

/// Returns whether the text of an error begins so.
fn reads(error: &(dyn StdError + 'static), text: &str) -> bool {
    begins_with(format_args!("{error}"), text)
}

fn of_h2(error: &h2::Error) -> Known {
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    if let Some(io) = error.get_io() {
        of_io(io).unwrap_or(Known { error_type: name_of_io(io), ..TRANSIENT })
    } else if error.is_remote() && refused {
        UNPROCESSED.named("refused_stream")
    } else if error.is_remote() && error.is_go_away() {
        UNPROCESSED
    } else if error.is_remote() {
        TRANSIENT.named("reset")
    } else if error.is_library() {
        TRANSIENT.named("protocol")
    } else if error.is_reset() || error.reason().is_none() {
        // Over HTTP/2, an error of the caller's own body is visible only as a reset that neither
        // the server nor the library sent. Or the library rejected the request.
        OWN
    } else {
        TRANSIENT
    }
}
