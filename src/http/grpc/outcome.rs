use http::HeaderMap;

use crate::{
    Fault, Outcome,
    http::wire::{self, GrpcCode, Pushback},
};

/// Returns the outcome of a gRPC status.
pub(in crate::http) fn outcome_of_code(code: GrpcCode, fields: &HeaderMap) -> Outcome {
    let asked = || match wire::pushback(fields) {
        Pushback::After(asked) => Some(asked),
        _ => None,
    };
    Outcome::Failure(match code {
        GrpcCode::Ok => return Outcome::Success,
        GrpcCode::Unavailable | GrpcCode::Unknown | GrpcCode::Internal | GrpcCode::DataLoss => {
            Fault::Transient
        }
        GrpcCode::DeadlineExceeded => Fault::TimedOut,
        GrpcCode::ResourceExhausted => Fault::Overloaded { retry_after: asked() },
        GrpcCode::Aborted => match asked() {
            None => Fault::Permanent,
            asked => Fault::InProgress { retry_after: asked },
        },
        _ if wire::is_tonic_timeout(fields) => Fault::TimedOut,
        _ => Fault::Permanent,
    })
}
