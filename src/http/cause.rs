use std::error::Error as StdError;

use crate::{BoxError, Error, stack::slots::PlainError};

/// An error whose causes an [HTTP classifier](crate::http::HttpClassifier) can inspect.
///
/// [`Error<E>`](crate::Error) and [`BoxError`] implement it. An error type of your own needs one
/// method:
///
/// ```
/// use buttress::http::Cause;
/// use std::error::Error as StdError;
///
/// enum CallError {
///     Rejected(buttress::Rejection),
///     Io(std::io::Error),
/// }
///
/// impl Cause for CallError {
///     fn cause(&self) -> Option<&(dyn StdError + 'static)> {
///         match self {
///             Self::Rejected(_) => None,
///             Self::Io(error) => Some(error),
///         }
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "an HTTP classifier cannot look at the causes of `{Self}`",
    note = "`buttress::Error<E>` of a `std::error::Error` and `BoxError` are ready-made: give the \
           stack the service by `.service(svc)` or `.boxed(svc)`",
    note = "or implement `buttress::http::Cause` for an error of your own"
)]
pub trait Cause {
    /// Returns the outermost error to inspect, or `None` if the error is a rejection.
    fn cause(&self) -> Option<&(dyn StdError + 'static)>;
}

impl<E: PlainError + 'static> Cause for Error<E> {
    fn cause(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Rejected(_) => None,
            Self::Service(error) => Some(error),
        }
    }
}

impl Cause for BoxError {
    fn cause(&self) -> Option<&(dyn StdError + 'static)> {
        Some(self.as_ref())
    }
}
