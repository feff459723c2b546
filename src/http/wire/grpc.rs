use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};

use super::line::{number, trim};

/// `grpc-status`: how a gRPC call ended.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// `grpc-message`: the words that go with a `grpc-status`, percent-encoded.
pub const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Whether a request or an answer is gRPC, by its content type: `application/grpc`, with or without a
/// format such as `+proto`.
///
/// `application/grpc-web` is another protocol and is not meant.
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
    /// The call went well.
    Ok = 0,
    /// The call was given up, mostly by the caller.
    Cancelled = 1,
    /// Nobody knows what went wrong.
    Unknown = 2,
    /// The arguments are wrong, whatever state the service is in.
    InvalidArgument = 3,
    /// The deadline passed before the call was done.
    DeadlineExceeded = 4,
    /// What was asked for does not exist.
    NotFound = 5,
    /// What was to be created exists.
    AlreadyExists = 6,
    /// The caller may not do this.
    PermissionDenied = 7,
    /// Something has run out: a quota, or room.
    ResourceExhausted = 8,
    /// The service is not in the state that the call needs.
    FailedPrecondition = 9,
    /// The call got in the way of another one.
    Aborted = 10,
    /// The call went past the end of what there is.
    OutOfRange = 11,
    /// The service cannot do this.
    Unimplemented = 12,
    /// Something is broken within.
    Internal = 13,
    /// The service is not there just now.
    Unavailable = 14,
    /// Data is lost for good.
    DataLoss = 15,
    /// It is not known who the caller is.
    Unauthenticated = 16,
}

impl GrpcCode {
    /// All of them, each at the place of its number.
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

    /// The code of a number; `None` if gRPC has none.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Its number, as it stands in `grpc-status`.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Its name as gRPC writes it, such as `DEADLINE_EXCEEDED`.
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

/// How a gRPC call ended, by `grpc-status` in its headers or trailers; `None` if it is not there.
///
/// What cannot be understood is [`GrpcCode::Unknown`], and so are several lines that do not agree.
pub fn grpc_status(headers: &HeaderMap) -> Option<GrpcCode> {
    let parse = |line: &HeaderValue| {
        let number = number(trim(line.as_bytes()), 2).and_then(|number| u8::try_from(number).ok());
        number.and_then(GrpcCode::from_number).unwrap_or(GrpcCode::Unknown)
    };
    let mut lines = headers.get_all(GRPC_STATUS).iter().map(parse);
    let first = lines.next()?;
    Some(if lines.all(|code| code == first) { first } else { GrpcCode::Unknown })
}

/// Whether this is what tonic answers when its own timer ends a call.
///
/// tonic calls that `CANCELLED`, which otherwise means that the caller gave up, and says nothing about
/// the service. Only the message tells the two apart.
pub(in crate::http) fn is_tonic_timeout(headers: &HeaderMap) -> bool {
    let mut messages = headers.get_all(GRPC_MESSAGE).iter().map(|line| trim(line.as_bytes()));
    grpc_status(headers) == Some(GrpcCode::Cancelled)
        && messages.any(|message| matches!(message, b"Timeout%20expired" | b"Timeout expired"))
}
