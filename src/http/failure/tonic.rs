//! The errors of tonic.

use std::error::Error as StdError;

use super::{
    hyper,
    known::{Known, OWN, TIMED_OUT, begins_with},
};
use crate::{
    RetryHint,
    http::{
        grpc::{code_of_status, outcome_of_status, timed_out},
        wire::GrpcCode,
    },
};

pub(super) fn meaning(error: &(dyn StdError + 'static)) -> Option<Known> {
    if error.is::<tonic::TimeoutExpired>() {
        return Some(TIMED_OUT.named(GrpcCode::DeadlineExceeded.as_str()));
    }
    if error.is::<tonic::ConnectError>() {
        return Some(hyper::unreachable(error));
    }
    if let Some(status) = error.downcast_ref::<tonic::Status>() {
        // A status made from another error is classified by that error, not by its code.
        let alone = status.source().is_none() || timed_out(status);
        let code = code_of_status(status);
        return alone.then(|| Known {
            outcome: outcome_of_status(status),
            hint: RetryHint::Unstated,
            error_type: Some(code.as_str()),
        });
    }
    // The endpoint has no scheme. The type of this error is in a feature of tonic that this crate
    // does not need. Its `Debug` names the type. The text alone may be that of any error.
    begins_with(format_args!("{error:?}"), "tonic::transport::Error(InvalidUri").then_some(OWN)
}
