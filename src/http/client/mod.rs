//! The layer directly around an HTTP or gRPC client.

mod buffer;
mod config;
mod describe;
mod future;
mod hop;
mod layer;
mod service;

pub use self::{
    future::HttpClientFuture,
    layer::{HttpClientBuilder, HttpClientLayer},
    service::HttpClient,
};
