//! Errors that carry a rejection.

use std::{convert::Infallible, error::Error as StdError, fmt, iter::successors};

use super::rejection::Rejection;

/// The boxed error that tower's own layers use.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// An error that can carry a [`Rejection`]: the only thing a layer asks of an error type.
///
/// It is what lets the error type stay the same through a whole stack. [`Error<E>`] is the
/// ready-made carrier, tower's [`BoxError`] is one, and an error of your own becomes one with two
/// short methods:
///
/// ```
/// use buttress::{CarryRejection, Rejection};
///
/// enum CallError {
///     Refused(Rejection),
///     Http(u16),
/// }
///
/// impl CarryRejection for CallError {
///     fn from_rejection(rejection: Rejection) -> Self {
///         Self::Refused(rejection)
///     }
///
///     fn rejection(&self) -> Option<&Rejection> {
///         match self {
///             Self::Refused(rejection) => Some(rejection),
///             Self::Http(_) => None,
///         }
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "the error type `{Self}` cannot carry a rejection of a buttress layer",
    label = "this service fails with `{Self}`",
    note = "give the stack the service: `Stack::service(svc)` makes the error \
            `buttress::Error<{Self}>`, `Stack::boxed(svc)` makes it a `BoxError`",
    note = "under `tower::ServiceBuilder`, write `.map_err(buttress::Error::Service)` right before \
            `.service(..)`",
    note = "or implement `buttress::CarryRejection` for an error type of your own",
    note = "around a handler of axum or tonic: \
            `HttpServerLayer::builder(Stack::new()).outside(layer)`"
)]
pub trait CarryRejection: Sized {
    /// Wraps a rejection.
    fn from_rejection(rejection: Rejection) -> Self;

    /// The rejection inside, if this is one; `None` for an error of the service.
    fn rejection(&self) -> Option<&Rejection>;
}

/// A rejection of a layer, or the error of the service underneath: the ready-made carrier.
///
/// `?` turns a service's error into it; [`Error::rejected`] is for the other side. It is a
/// [`std::error::Error`] when `E` is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error<E> {
    /// A layer refused or ended the call.
    Rejected(Rejection),
    /// The service failed.
    Service(E),
}

impl<E> Error<E> {
    /// Wraps a rejection, or the reason for one.
    pub fn rejected(rejection: impl Into<Rejection>) -> Self {
        Self::Rejected(rejection.into())
    }

    /// The service's own error, if it is one.
    pub fn service(&self) -> Option<&E> {
        match self {
            Self::Rejected(_) => None,
            Self::Service(error) => Some(error),
        }
    }

    /// Turns the service's error into another, and leaves a rejection alone.
    pub fn map_service<T>(self, map: impl FnOnce(E) -> T) -> Error<T> {
        match self {
            Self::Rejected(rejection) => Error::Rejected(rejection),
            Self::Service(error) => Error::Service(map(error)),
        }
    }
}

impl<E> From<E> for Error<E> {
    fn from(error: E) -> Self {
        Self::Service(error)
    }
}

impl<E> CarryRejection for Error<E> {
    fn from_rejection(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }

    fn rejection(&self) -> Option<&Rejection> {
        match self {
            Self::Rejected(rejection) => Some(rejection),
            Self::Service(_) => None,
        }
    }
}

impl<E: fmt::Display> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(_) => f.write_str("rejected"),
            Self::Service(error) => fmt::Display::fmt(error, f),
        }
    }
}

impl<E: StdError> StdError for Error<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Rejected(rejection) => Some(rejection),
            Self::Service(error) => error.source(),
        }
    }
}

impl CarryRejection for BoxError {
    fn from_rejection(rejection: Rejection) -> Self {
        // Boxed as `Error` and not bare, so that a chain reads alike from either carrier.
        Box::new(Error::<Infallible>::Rejected(rejection))
    }

    fn rejection(&self) -> Option<&Rejection> {
        find_rejection(self.as_ref())
    }
}

/// The rejection among an error and its causes.
pub(crate) fn find_rejection<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Rejection> {
    successors(Some(error), |&error| error.source()).find_map(|error| error.downcast_ref())
}
