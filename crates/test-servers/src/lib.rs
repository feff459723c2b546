//! Database servers for tests, examples and benchmarks.
//!
//! Each runs in a temporary folder, on a free port of the loopback address, until it is dropped.

mod postgres;
mod redis;

pub use self::{postgres::PostgresServer, redis::RedisServer};
