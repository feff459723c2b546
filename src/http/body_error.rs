//! The error of a response body.

use std::fmt;

use crate::{BoxError, CarryRejection, Rejection};

/// The error of a response body that ended early.
///
/// It converts to a [`BoxError`] by `?` or `BoxError::from`. It does not implement
/// `std::error::Error`, because its inner error may be a [`BoxError`], which does not either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyError<E> {
    /// A limit of this crate ended the body.
    Rejected(Rejection),
    /// The body itself failed.
    Service(E),
}

impl<E> BodyError<E> {
    /// Returns the rejection, or `None` if the body itself failed.
    pub fn rejection(&self) -> Option<&Rejection> {
        match self {
            Self::Rejected(rejection) => Some(rejection),
            Self::Service(_) => None,
        }
    }
}

impl<E: fmt::Display> fmt::Display for BodyError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(rejection) => rejection.fmt(f),
            Self::Service(error) => error.fmt(f),
        }
    }
}

impl<E: Into<BoxError>> From<BodyError<E>> for BoxError {
    // Replaces an implementation of `std::error::Error`, which boxed errors would not allow.
    fn from(error: BodyError<E>) -> Self {
        match error {
            BodyError::Rejected(rejection) => Self::from_rejection(rejection),
            BodyError::Service(error) => error.into(),
        }
    }
}
