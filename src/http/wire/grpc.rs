use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};

use super::line::{number, trim};

/// `grpc-status`: the status with which a gRPC call ended.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// `grpc-message`: the message of a `grpc-status`, percent-encoded.
pub const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Returns whether the content type of a request or a response is gRPC.
///
/// The content type of gRPC is `application/grpc`, with or without a format such as `+proto`.
/// `application/grpc-web` is another protocol, and is not gRPC here.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    const GRPC: &[u8] = b"application/grpc";

    let Some(value) = headers.get(CONTENT_TYPE) else { return false };
    match trim(value.as_bytes()).split_at_checked(GRPC.len()) {
        Some((start, rest)) => {
            start.eq_ignore_ascii_case(GRPC)
                && matches!(rest, [] | [b'+' | b';' | b' ' | b'\t', ..])
        }
        None => false,
    }
}

/// A status code of gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GrpcCode {
    /// The call succeeded.
    Ok = 0,
    /// The call was cancelled, usually by the caller.
    Cancelled = 1,
    /// The cause of the failure is unknown.
    Unknown = 2,
    /// The arguments are invalid, regardless of the state of the service.
    InvalidArgument = 3,
    /// The deadline passed before the call completed.
    DeadlineExceeded = 4,
    /// The requested thing does not exist.
    NotFound = 5,
    /// The thing to be created exists already.
    AlreadyExists = 6,
    /// The caller is not permitted to do this.
    PermissionDenied = 7,
    /// A resource is exhausted, such as a quota or space.
    ResourceExhausted = 8,
    /// The service is not in the state that the call needs.
    FailedPrecondition = 9,
    /// The call was aborted, usually by a conflict with another call.
    Aborted = 10,
    /// The call went past the end of a valid range.
    OutOfRange = 11,
    /// The service does not implement this method.
    Unimplemented = 12,
    /// Something is broken inside the service.
    Internal = 13,
    /// The service is not available at present.
    Unavailable = 14,
    /// Data is lost or corrupted, and cannot be recovered.
    DataLoss = 15,
    /// The caller is not authenticated.
    Unauthenticated = 16,
}

impl GrpcCode {
    /// All codes, each at the index of its number.
    const ALL: [Self; 17] = [
        Self::Ok,
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// Returns the code with this number, or `None` if gRPC has no such code.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Returns the number of the code, as in `grpc-status`.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Returns the name of the code as gRPC writes it, such as `DEADLINE_EXCEEDED`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Cancelled => "CANCELLED",
            Self::Unknown => "UNKNOWN",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Aborted => "ABORTED",
            Self::OutOfRange => "OUT_OF_RANGE",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Internal => "INTERNAL",
            Self::Unavailable => "UNAVAILABLE",
            Self::DataLoss => "DATA_LOSS",
            Self::Unauthenticated => "UNAUTHENTICATED",
        }
    }
}

/// Reads the status of a gRPC call from `grpc-status`, or returns `None` without that header.
///
/// The map may be the headers or the trailers of a response. A malformed value is
/// [`GrpcCode::Unknown`]. If several lines disagree, the status is `Unknown` too.
pub fn grpc_status(headers: &HeaderMap) -> Option<GrpcCode> {
    let parse = |line: &HeaderValue| {
        let number = number(trim(line.as_bytes()), 2).and_then(|number| u8::try_from(number).ok());
        number.and_then(GrpcCode::from_number).unwrap_or(GrpcCode::Unknown)
    };
    let mut lines = headers.get_all(GRPC_STATUS).iter().map(parse);
    let first = lines.next()?;
    Some(if lines.all(|code| code == first) { first } else { GrpcCode::Unknown })
}

/// Returns whether the response comes from tonic's own timer.
///
/// tonic's timer responds with `CANCELLED`. Otherwise that code means that the caller gave up, and
/// says nothing about the service. Only the message distinguishes the two cases.
pub(in crate::http) fn is_tonic_timeout(headers: &HeaderMap) -> bool {
    let mut messages = headers.get_all(GRPC_MESSAGE).iter().map(|line| trim(line.as_bytes()));
    grpc_status(headers) == Some(GrpcCode::Cancelled)
        && messages.any(|message| matches!(message, b"Timeout%20expired" | b"Timeout expired"))
}
