//! The futures of the services of HTTP.

pub use super::{
    client::HttpClientFuture,
    server::{future::HttpServerFuture, handler::HandlerFuture},
};
