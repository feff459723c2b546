//! The futures of the services of HTTP.

pub use super::{
    client::ClientFuture,
    server::{future::ServerFuture, handler::HandlerFuture},
};
