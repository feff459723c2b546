//! `reqwest` as a tower service of `http` requests.

mod client;

pub use self::client::{ReqwestClient, ReqwestError};

/// The future of the service.
pub mod future {
    pub use super::client::ReqwestFuture;
}
