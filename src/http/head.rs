//! What the head of a response tells: whether anything comes after it, and whether the service failed.

use http::{Method, StatusCode};

/// Whether an HTTP status says that the service could not do what it was asked.
pub(super) fn has_failed(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

/// The parts of a response, by the method of its request.
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

    /// Whether the response ends with its head, whatever body it seems to have: nobody reads that, and a
    /// connection that is upgraded lives on without it.
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
