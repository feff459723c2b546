//! Conversions between rejections and `tonic::Status`.

use std::{error::Error as StdError, sync::Arc};

use tonic::{Code as TonicCode, Status};

use super::outcome::outcome_of_code;
use crate::{
    CarryRejection, Error, Fault, Outcome, Rejection,
    error::{find_rejection, rejection_of_tower},
    http::{Cause, wire::GrpcCode},
};

impl From<Rejection> for Status {
    /// Creates a status with the code of the [table](crate::http::server).
    ///
    /// The rejection is its `source()`.
    fn from(rejection: Rejection) -> Self {
        let code = TonicCode::from(i32::from(rejection.grpc_code()));
        let mut status = Self::new(code, rejection.to_string());
        status.set_source(Arc::new(rejection));
        status
    }
}

impl From<Error<Status>> for Status {
    fn from(error: Error<Status>) -> Self {
        match error {
            Error::Rejected(rejection) => rejection.into(),
            Error::Service(status) => status,
        }
    }
}

impl CarryRejection for Status {
    fn from_rejection(rejection: Rejection) -> Self {
        rejection.into()
    }

    fn rejection(&self) -> Option<&Rejection> {
        find_rejection(self).or_else(|| rejection_of_tower(self.source()?))
    }
}

impl Cause for Status {
    fn cause(&self) -> Option<&(dyn StdError + 'static)> {
        Some(self)
    }
}

/// Returns the outcome of a status that was not created from another error.
pub(in crate::http) fn outcome_of_status(status: &Status) -> Outcome {
    if timed_out(status) {
        return Outcome::Failure(Fault::TimedOut);
    }
    let headers = status.metadata().clone().into_headers();
    outcome_of_code(code_of_status(status), &headers)
}

/// Returns the code of a status. Its own timer of tonic is [`GrpcCode::DeadlineExceeded`].
pub(in crate::http) fn code_of_status(status: &Status) -> GrpcCode {
    if timed_out(status) {
        return GrpcCode::DeadlineExceeded;
    }
    let number = u8::try_from(i32::from(status.code())).unwrap_or_default();
    GrpcCode::from_number(number).unwrap_or(GrpcCode::Unknown)
}

/// Returns whether the status comes from tonic's own timer.
pub(in crate::http) fn timed_out(status: &Status) -> bool {
    status.code() == TonicCode::Cancelled && status.message() == "Timeout expired"
}
