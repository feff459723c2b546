//! Databases, and the server of Prometheus, for tests, examples and benchmarks.
//!
//! Each runs in a temporary folder, on a free port of the loopback address, until it is dropped.

mod postgres;
pub mod prometheus;
mod redis;

pub use self::{postgres::PostgresServer, prometheus::PrometheusServer, redis::RedisServer};
