//! The bounds of a service that is called in a task of its own.

use tower_service::Service;

use crate::CarryRejection;

/// A service that a task can own while it calls it. Every service with these bounds is one.
pub(super) trait OwnedService<Req>:
    Service<Req, Response: Send + 'static, Error: CarryRejection + Send + 'static, Future: Send>
    + Clone
    + Send
    + 'static
{
}

impl<S, Req> OwnedService<Req> for S where
    S: Service<Req, Response: Send + 'static, Error: CarryRejection + Send + 'static, Future: Send>
        + Clone
        + Send
        + 'static
{
}
