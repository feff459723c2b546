//! Tests of the layers around real clients and in real servers, over sockets on loopback.

mod axum_chaos;
mod axum_endings;
mod axum_overload;
mod grpc_endings;
mod grpc_rejections;
mod grpc_time;
mod outcomes;
mod stacked_reqwest;
mod support;
mod tonic_server;
