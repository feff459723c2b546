use crate::BoxError;

/// Why a [`ReplayBody`](crate::http::ReplayBody) ended before its end.
///
/// It is found in the chain of a client's error by `downcast_ref`, whatever the body was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayBodyError {
    /// A newer attempt has taken over.
    #[error("a newer attempt is sending the request body")]
    Stale,
    /// The body that is sent failed.
    #[error("the request body could not be read")]
    Source(#[source] BoxError),
    /// The body that is sent had failed before, or it panicked.
    #[error("an earlier attempt could not read the request body")]
    Failed,
    /// The beginning was sent before and not kept.
    #[error("the beginning of the request body is no longer buffered")]
    Gone,
}
