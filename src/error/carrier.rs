//! Errors that carry a rejection.

use std::{convert::Infallible, error::Error as StdError, fmt, iter::successors};

use super::{rejection::Rejection, tower::rejection_of_tower};

/// The boxed error type that tower's own layers use.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// An error type that can carry a [`Rejection`].
///
/// Every layer of this crate requires it of the error type, and requires nothing more. A layer does
/// not change the error type. [`Error<E>`] and tower's [`BoxError`] implement the trait. Your own
/// error type implements it with two short methods:
///
/// ```
/// use buttress::{CarryRejection, Rejection};
///
/// enum CallError {
///     Rejected(Rejection),
///     Http(u16),
/// }
///
/// impl CarryRejection for CallError {
///     fn from_rejection(rejection: Rejection) -> Self {
///         Self::Rejected(rejection)
///     }
///
///     fn rejection(&self) -> Option<&Rejection> {
///         match self {
///             Self::Rejected(rejection) => Some(rejection),
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
    /// Creates an error from a rejection.
    fn from_rejection(rejection: Rejection) -> Self;

    /// Returns the rejection that the error carries, or `None` for an error of the service.
    fn rejection(&self) -> Option<&Rejection>;
}

/// The error of a stack: a rejection by a layer, or the error of the wrapped service.
///
/// It is the ready-made implementation of [`CarryRejection`]. The `?` operator converts a service's
/// error into it. [`Error::rejected`] creates one from a rejection. It implements
/// [`std::error::Error`] when `E` does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error<E> {
    /// A layer rejected or ended the call.
    Rejected(Rejection),
    /// The service failed with its own error.
    Service(E),
}

impl<E> Error<E> {
    /// Creates an error from a rejection or its data, such as a [`TimedOut`](super::TimedOut).
    pub fn rejected(rejection: impl Into<Rejection>) -> Self {
        Self::Rejected(rejection.into())
    }

    /// Returns the service's own error, or `None` for a rejection.
    pub fn service(&self) -> Option<&E> {
        match self {
            Self::Rejected(_) => None,
            Self::Service(error) => Some(error),
        }
    }

    /// Maps the service's error with a closure. A rejection stays as it is.
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
            // Also the text of the source, because most programs print only the outer error.
            Self::Rejected(rejection) => fmt::Display::fmt(rejection, f),
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

/// A boxed error of tower's `LoadShed` or `Timeout` carries a [`Rejection`] too. This holds only
/// for the boxed error itself, not for its causes.
impl CarryRejection for BoxError {
    fn from_rejection(rejection: Rejection) -> Self {
        // Boxed inside `Error`, so that the chain of sources is the same for both error types.
        Box::new(Error::<Infallible>::Rejected(rejection))
    }

    fn rejection(&self) -> Option<&Rejection> {
        find_rejection(self.as_ref()).or_else(|| rejection_of_tower(self.as_ref()))
    }
}

/// Finds the rejection in an error or in one of its sources.
pub(crate) fn find_rejection<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Rejection> {
    successors(Some(error), |&error| error.source()).find_map(|error| error.downcast_ref())
}
