use http::HeaderMap;

use crate::{
    Fault, Outcome,
    http::wire::{self, Code, Pushback},
};

/// What a gRPC status says of the service.
pub(in crate::http) fn outcome_of_code(code: Code, fields: &HeaderMap) -> Outcome {
    let asked = || match wire::pushback(fields) {
        Pushback::After(asked) => Some(asked),
        _ => None,
    };
    Outcome::Failure(match code {
        Code::Ok => return Outcome::Success,
        Code::Unavailable | Code::Unknown | Code::Internal | Code::DataLoss => Fault::Transient,
        Code::DeadlineExceeded => Fault::TimedOut,
        Code::ResourceExhausted => Fault::Overloaded { retry_after: asked() },
        Code::Aborted => match asked() {
            None => Fault::Permanent,
            asked => Fault::InProgress { retry_after: asked },
        },
        _ if wire::is_tonic_timeout(fields) => Fault::TimedOut,
        _ => Fault::Permanent,
    })
}
