//! The known meanings of errors.

#[cfg(feature = "hyper")]
use std::fmt::{self, Write};
use std::{error::Error as StdError, io, iter::successors};

use crate::{Fault, Outcome, RetryHint};

/// The meaning of an error.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct Known {
    pub(in crate::http) outcome: Outcome,
    pub(in crate::http) hint: RetryHint,
    /// The cause as one word, or `None` if only an error beneath may have a name.
    pub(in crate::http) error_type: Option<&'static str>,
}

pub(super) const TRANSIENT: Known = Known {
    outcome: Outcome::Failure(Fault::Transient),
    hint: RetryHint::Unstated,
    error_type: None,
};
pub(super) const TIMED_OUT: Known = Known {
    outcome: Outcome::Failure(Fault::TimedOut),
    hint: RetryHint::Unstated,
    error_type: Some("timeout"),
};
/// The connection could not be made.
pub(super) const UNREACHABLE: Known =
    Known { hint: RetryHint::Unsent, error_type: Some("connect"), ..TRANSIENT };
/// The caller made a mistake, or its body failed.
pub(super) const OWN: Known =
    Known { outcome: Outcome::Ignored, hint: RetryHint::Unstated, error_type: Some("request") };

#[cfg(feature = "hyper")]
impl Known {
    /// Returns the same meaning with another name for the cause.
    pub(super) const fn named(self, error_type: &'static str) -> Self {
        Self { error_type: Some(error_type), ..self }
    }
}

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

/// Returns a name for an I/O error whose causes decide on the outcome.
pub(super) fn name_of_io(error: &io::Error) -> Option<&'static str> {
    use io::ErrorKind::*;
    match error.kind() {
        ConnectionReset | ConnectionAborted => Some("reset"),
        BrokenPipe | NotConnected | UnexpectedEof => Some("closed"),
        HostUnreachable | NetworkUnreachable | NetworkDown => Some("connect"),
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
