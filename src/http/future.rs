//! Futures of the HTTP services.

pub use super::{
    client::HttpClientFuture,
    server::{future::HttpServerFuture, handler::HandlerFuture},
};
