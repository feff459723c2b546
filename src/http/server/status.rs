//! The HTTP and gRPC statuses of rejections.

use http::{HeaderMap, HeaderValue, StatusCode};

use crate::{Rejection, http::wire};

/// Returns the HTTP status of a rejection.
///
/// `full` overrides the status of a rejection by the bulkhead.
pub(super) fn status_of(full: Option<StatusCode>, rejection: &Rejection) -> StatusCode {
    let own = StatusCode::from_u16(rejection.http_status()).expect("every row has a status");
    match rejection {
        Rejection::BulkheadFull(_) | Rejection::QueueTimedOut(_) => full.unwrap_or(own),
        _ => own,
    }
}

/// Writes the gRPC status of a rejection into headers or trailers.
pub(super) fn write_status(fields: &mut HeaderMap, rejection: &Rejection) {
    fields.insert(wire::GRPC_STATUS, u16::from(rejection.grpc_code()).into());
    fields.insert(wire::GRPC_MESSAGE, HeaderValue::from_static(rejection.kind()));
}
