//! The future of the [`CallSpan`](super::CallSpan) service.

pub use super::call::CallFuture;
