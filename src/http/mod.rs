//! At home in HTTP and gRPC.

mod body;
mod cause;
mod classify;
mod client;
pub mod grpc;
pub mod replay;
#[cfg(feature = "reqwest")]
pub mod reqwest;
pub mod server;
pub mod wire;

pub use self::{
    body::{BodyError, ResponseBody},
    cause::Cause,
    classify::{AutoClassifier, GrpcClassifier, HttpClassifier},
    client::{Client, ClientBuilder, ClientFuture, ClientLayer},
    replay::{ReplayBody, ReplayBodyError, ReplayBodyLayer, ReplaySafe},
    server::{ServerLayer, Trust},
};
