//! The known meanings of errors.

#[cfg(feature = "hyper")]
use std::fmt::{self, Write};
use std::{error::Error as StdError, io, iter::successors};

use crate::{Fault, Outcome, RetryHint};

/// The outcome of an error, and its retry hint.
pub(super) type Known = (Outcome, RetryHint);

pub(super) const TRANSIENT: Known = (Outcome::Failure(Fault::Transient), RetryHint::Unstated);
pub(super) const TIMED_OUT: Known = (Outcome::Failure(Fault::TimedOut), RetryHint::Unstated);
#[cfg(feature = "reqwest")]
pub(super) const FINAL: Known = (Outcome::Failure(Fault::Permanent), RetryHint::Unstated);
/// The connection could not be made.
pub(super) const UNREACHABLE: Known = (Outcome::Failure(Fault::Transient), RetryHint::Unsent);
/// The caller made a mistake, or its body failed.
pub(super) const OWN: Known = (Outcome::Ignored, RetryHint::Unstated);

/// Returns an error and its causes, the outermost first.
pub(super) fn causes<'a>(
    error: Option<&'a (dyn StdError + 'static)>,
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    successors(error, |&error| {
        // The `source` of an `io::Error` skips the error that it wraps.
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(within) => Some(within),
            None => error.source(),
        }
    })
}

/// Returns the meaning of an I/O error, or `None` if its causes decide.
pub(super) fn of_io(error: &io::Error) -> Option<Known> {
    match error.kind() {
        io::ErrorKind::TimedOut => Some(TIMED_OUT),
        io::ErrorKind::ConnectionRefused => Some(UNREACHABLE),
        _ => None,
    }
}

/// Returns `true` if the text of a value begins with `text`.
///
/// It allocates nothing, and stops at the first difference.
#[cfg(feature = "hyper")]
pub(super) fn begins_with(value: fmt::Arguments<'_>, text: &str) -> bool {
    struct Rest<'a>(&'a str);

    impl Write for Rest<'_> {
        fn write_str(&mut self, written: &str) -> fmt::Result {
            self.0 = match self.0.strip_prefix(written) {
                Some(rest) => rest,
                None if written.starts_with(self.0) => "",
                None => return Err(fmt::Error),
            };
            if self.0.is_empty() { Err(fmt::Error) } else { Ok(()) }
        }
    }

    let mut rest = Rest(text);
    let _ = rest.write_fmt(value);
    rest.0.is_empty()
}
