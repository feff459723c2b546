//! What stands next to an HTTP or gRPC client.

mod config;
mod future;
mod hop;
mod layer;
mod service;

pub use self::{
    future::ClientFuture,
    layer::{ClientBuilder, ClientLayer},
    service::Client,
};
