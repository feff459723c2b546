use crate::BoxError;

/// Why a [`ReplayBody`](crate::http::ReplayBody) ended before its end.
///
/// It is found in the chain of a client's error by `downcast_ref`, whatever the body was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayBodyError {
    /// A newer attempt has taken over.
    #[error("the request body is sent by a newer attempt")]
    Stale,
    /// The body that is sent failed.
    #[error("the request body could not be read")]
    Source(#[source] BoxError),
    /// The body that is sent had failed before, or it panicked.
    #[error("the request body could not be read before")]
    Failed,
    /// The beginning was sent before and not kept.
    #[error("the beginning of the request body was not kept")]
    Gone,
}
