//! The statuses of a rejection, and when to come back after it.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode};

use crate::{
    IdempotencyReason, Rejection,
    http::wire::{self, Code},
};

/// The statuses of a rejection, of HTTP and of gRPC.
pub(crate) fn statuses(full: StatusCode, rejection: &Rejection) -> (StatusCode, Code) {
    match rejection {
        Rejection::CircuitOpen(_) | Rejection::NotReady(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable)
        }
        Rejection::BulkheadFull(_) | Rejection::QueueTimedOut(_) => (full, Code::ResourceExhausted),
        Rejection::RateLimited(_) => (StatusCode::TOO_MANY_REQUESTS, Code::ResourceExhausted),
        Rejection::TimedOut(_) | Rejection::DeadlineExceeded(_) => {
            (StatusCode::GATEWAY_TIMEOUT, Code::DeadlineExceeded)
        }
        Rejection::Idempotency(refused) => match refused.reason() {
            IdempotencyReason::KeyMissing | IdempotencyReason::KeyMalformed => {
                (StatusCode::BAD_REQUEST, Code::InvalidArgument)
            }
            // The server is put together wrongly: the guard stands outside authentication.
            IdempotencyReason::ScopeMissing => (StatusCode::INTERNAL_SERVER_ERROR, Code::Internal),
            IdempotencyReason::BodyTooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, Code::ResourceExhausted)
            }
            IdempotencyReason::BodyIncomplete => {
                (StatusCode::REQUEST_TIMEOUT, Code::DeadlineExceeded)
            }
            IdempotencyReason::Mismatch => {
                (StatusCode::UNPROCESSABLE_ENTITY, Code::InvalidArgument)
            }
            IdempotencyReason::InFlight => (StatusCode::CONFLICT, Code::Aborted),
            IdempotencyReason::NotReplayable | IdempotencyReason::Unknown => {
                (StatusCode::CONFLICT, Code::FailedPrecondition)
            }
            IdempotencyReason::StoreUnavailable | IdempotencyReason::Full => {
                (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable)
            }
        },
    }
}

/// When it is worth coming back.
pub(super) fn come_back(rejection: &Rejection) -> Option<Duration> {
    match rejection {
        // How long calls take is not known here; a second is the least that `Retry-After` can say.
        Rejection::BulkheadFull(_) | Rejection::QueueTimedOut(_) => Some(Duration::from_secs(1)),
        Rejection::Idempotency(refused) => match refused.reason() {
            IdempotencyReason::InFlight => refused.retry_after(),
            IdempotencyReason::StoreUnavailable | IdempotencyReason::Full => {
                Some(Duration::from_secs(1))
            }
            // With it, clients would take a 409 or a 400 for what passes by itself.
            _ => None,
        },
        rejection => rejection.retry_after(),
    }
}

/// The gRPC status of a rejection, for headers or trailers.
pub(super) fn write_status(fields: &mut HeaderMap, rejection: &Rejection) {
    let (_, code) = statuses(StatusCode::SERVICE_UNAVAILABLE, rejection);
    fields.insert(wire::GRPC_STATUS, u16::from(code.number()).into());
    fields.insert(wire::GRPC_MESSAGE, HeaderValue::from_static(rejection.kind()));
}
