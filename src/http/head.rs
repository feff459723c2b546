//! The head of a response: whether a body follows, and whether the service failed.

use http::{Method, Response, StatusCode};

use super::wire;

/// Returns whether an HTTP status says that the service did not do its work: 5xx, 421, 425 or 429.
pub(super) fn has_failed(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status.as_u16(), 421 | 425 | 429)
}

/// The shape of a response, which depends on the method of its request.
#[derive(Clone, Copy, Debug)]
pub(super) enum ResponseShape {
    Whole,
    Head,
    Tunnel,
}

impl ResponseShape {
    pub(super) fn of(method: &Method) -> Self {
        match *method {
            Method::HEAD => Self::Head,
            Method::CONNECT => Self::Tunnel,
            _ => Self::Whole,
        }
    }

    /// Returns whether the call ends at the head of the response, even if there is a body.
    ///
    /// Nobody reads such a body, and an upgraded connection continues without it.
    pub(super) fn ends_at_head(self, status: StatusCode) -> bool {
        let bodiless =
            [StatusCode::SWITCHING_PROTOCOLS, StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED];
        match self {
            Self::Head => true,
            Self::Tunnel if status.is_success() => true,
            Self::Tunnel | Self::Whole => bodiless.contains(&status),
        }
    }
}

/// Returns whether the outcome is known only at the end of the response.
///
/// This is the case for a gRPC response without a status in its head. The response of a proxy never
/// has a gRPC status, and is classified by its HTTP status.
pub(super) fn awaits_status<B>(response: &Response<B>, grpc: bool) -> bool {
    grpc && response.status() == StatusCode::OK && wire::grpc_status(response.headers()).is_none()
}
