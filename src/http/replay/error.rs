use crate::{BoxError, error::WithCauses};

/// The error that ends a [`ReplayBody`](crate::http::ReplayBody) early.
///
/// To find it, use `downcast_ref` on the source chain of a client's error. The error has the same
/// type for every type of body.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayBodyError {
    /// A newer attempt sends the body now.
    #[error("a newer attempt is sending the request body")]
    Stale,
    /// The original body failed. The message includes those of its sources.
    #[error("the request body could not be read: {}", WithCauses(.0.as_ref()))]
    Source(#[source] BoxError),
    /// The original body failed in an earlier attempt, or it panicked.
    #[error("an earlier attempt could not read the request body")]
    Failed,
    /// The beginning of the body was already sent and was not kept.
    #[error("the beginning of the request body is no longer buffered")]
    Gone,
}
