use crate::BoxError;

/// The error that ends a [`ReplayBody`](crate::http::ReplayBody) before its end.
///
/// Find it in the source chain of a client's error with `downcast_ref`. The type of the body does
/// not matter.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayBodyError {
    /// A newer attempt sends the body now.
    #[error("a newer attempt is sending the request body")]
    Stale,
    /// The original body failed.
    #[error("the request body could not be read")]
    Source(#[source] BoxError),
    /// The original body had failed before, or it panicked.
    #[error("an earlier attempt could not read the request body")]
    Failed,
    /// The beginning of the body was sent before and was not kept.
    #[error("the beginning of the request body is no longer buffered")]
    Gone,
}
