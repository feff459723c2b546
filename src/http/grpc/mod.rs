//! Additional support for gRPC clients.
//!
//! With the feature `tonic`, the function `client` puts a [`Stack`](crate::Stack) around a channel.
//! The `Status` of a generated client then has the right code, and the
//! [`Rejection`](crate::Rejection) as its `source()`. `status.rejection()` of
//! [`CarryRejection`](crate::CarryRejection) returns it.
//!
//! [`FirstFrameLayer`] makes unary calls retryable when they fail after their response headers. It
//! works with any client.

#[cfg(feature = "tonic")]
mod client;
mod first_frame;
mod outcome;
#[cfg(feature = "tonic")]
mod status;

#[cfg(feature = "tonic")]
pub use self::client::{GrpcBody, GrpcChannel, GrpcClient, GrpcTimeout, client};
pub use self::first_frame::{FirstFrame, FirstFrameBody, FirstFrameLayer};
pub(super) use self::outcome::outcome_of_code;
#[cfg(feature = "tonic")]
pub(super) use self::status::{code_of_status, outcome_of_status, timed_out};

/// Futures of the gRPC services.
pub mod future {
    #[cfg(feature = "tonic")]
    pub use super::client::{GrpcChannelFuture, GrpcClientFuture};
    pub use super::first_frame::FirstFrameFuture;
}
