//! An adapter that makes `reqwest` a tower service of `http` requests.

mod client;

pub use self::client::{ReqwestClient, ReqwestError};

/// Futures of the reqwest service.
pub mod future {
    pub use super::client::ReqwestFuture;
}
