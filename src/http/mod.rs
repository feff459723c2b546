//! At home in HTTP and gRPC.

pub mod wire;
