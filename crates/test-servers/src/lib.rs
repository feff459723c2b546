//! Servers of databases for tests, examples and benchmarks: each in a temporary folder, on a free
//! port of the loopback address, gone when it is dropped.

mod postgres;
mod redis;

pub use self::{postgres::PostgresServer, redis::RedisServer};
