//! gRPC clients: what they need beside what HTTP has.
//!
//! With feature `tonic`, `client` puts a [`Stack`](crate::Stack) around a channel, so that the
//! `Status` of a generated client has the right code and the [`Rejection`](crate::Rejection) as its
//! `source()`.

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
pub(super) use self::status::{outcome_of_status, timed_out};

/// The futures of the services of gRPC.
pub mod future {
    #[cfg(feature = "tonic")]
    pub use super::client::{GrpcChannelFuture, GrpcClientFuture};
    pub use super::first_frame::FirstFrameFuture;
}
