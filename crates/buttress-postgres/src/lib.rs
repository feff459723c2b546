//! Stores the records of [buttress](mod@buttress)'s idempotency layer in PostgreSQL.
//!
//! Any number of processes can share the records. If the effect of an operation is in the same
//! database, it can be committed in one transaction with its record. It then happens exactly once.
//!
//! ```toml
//! [dependencies]
//! buttress = "0.1"
//! buttress-postgres = "0.1"
//! tokio = { version = "1", features = ["macros", "rt-multi-thread"] }
//! ```
//!
//! ```no_run
//! use buttress::idempotency::{IdempotencyLayer, Key, RequestKey};
//! use buttress_postgres::PostgresStore;
//!
//! type Payment = (&'static str, u64);
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let store = PostgresStore::builder("postgres://app@localhost/app".parse()?).build().await?;
//!     let layer = IdempotencyLayer::builder_fn(
//!         store,
//!         |payment: &Payment| Ok(RequestKey::Key(Key::new(payment.0)?)),
//!         |payment: &Payment, request| request.part(payment.1.to_be_bytes()),
//!     )
//!     .single_tenant()
//!     .build()?;
//!     println!("{layer:?}");
//!     Ok(())
//! }
//! ```
//!
//! For the records of HTTP requests, use `IdempotencyLayer::http(store)`, as the idempotency guide
//! of buttress does.
//!
//! See [`PostgresStore`] for its durability, its requirements and its schema.
//!
//! # Versions
//!
//! Version 0.1 works with buttress 0.1, which it re-exports as [`buttress`](mod@buttress), and
//! with [`tokio_postgres`] 0.7. It needs Rust 1.85. The re-export has the feature `http` only if
//! your own dependency on buttress enables it, which it does by default.

mod builder;
mod error;
mod pool;
mod schema;
mod session;
mod steps;
mod turns;
mod wire;

use self::pool::Pool;

pub use self::{builder::PostgresStoreBuilder, error::PostgresSetupError};
pub use buttress;

/// A store of idempotency records in PostgreSQL, for any number of processes.
///
/// Clones share the connections.
///
/// ```no_run
/// use buttress_postgres::PostgresStore;
///
/// # async fn connect() -> Result<PostgresStore, Box<dyn std::error::Error>> {
/// let store = PostgresStore::builder("postgres://app@localhost/app".parse()?).build().await?;
/// # Ok(store)
/// # }
/// ```
///
/// # Durability
///
/// | may lose records on | keeps records through | required settings |
/// |---|---|---|
/// | failover to an asynchronous replica | `kill -9`, power loss | `fsync`, and the settings of the store's sessions |
///
/// The store sets these options of its sessions when it connects, whatever the defaults of the
/// database are:
///
/// - `synchronous_commit = on`,
/// - the isolation level READ COMMITTED,
/// - a `statement_timeout` and a `lock_timeout`, see
///   [`step_timeout`](PostgresStoreBuilder::step_timeout).
///
/// They override the same options in the configuration, whose other options are kept.
/// [`build`](PostgresStoreBuilder::build) checks them and `fsync`, and its error names the setting
/// that has another value.
///
/// The store uses the server's clock, read after the record is locked. Fences come from a
/// sequence.
///
/// # Stalls
///
/// If a table or a record is locked, or the server does not respond, the steps that need it fail
/// with [`StoreError::Unavailable`]. Nothing piles up at the server:
///
/// - The server itself ends a step just before the idempotency layer gives up on it.
/// - If a step is dropped earlier and its statement does not end within 50 ms, the store sends a
///   request to cancel it. The connection counts against
///   [`connections`](PostgresStoreBuilder::connections) until the server has ended the statement.
/// - If that takes more than 1 s, the connection is silent, as behind a proxy that has forgotten
///   it. It is replaced, and so are the idle ones. Its backend may still be there, and counts as
///   ended after 30 s. Until then, no more connections are replaced than the store may have, so
///   there are at most two backends for each.
/// - The steps of one record use at most a quarter of the connections, but at least one. With
///   several connections, a locked record therefore does not delay the steps of other records.
///
/// The leases of all runs of a process are renewed by one statement. If another transaction has
/// locked one of the records for longer than the `lock_timeout`, no lease is renewed. The
/// idempotency layer tries again until the leases end, and then ends all of these runs. Keep the
/// transactions of [`complete_in`](Self::complete_in) shorter than the `lock_timeout`, and much
/// shorter than the lease.
///
/// # Poolers
///
/// A pooler between the store and the server must run in session mode. PgBouncer rejects the
/// options of a session, or drops them if `options` is in its `ignore_startup_parameters`. Then
/// give them to the role of the store instead, and those for the durability if the database has
/// other defaults:
///
/// ```sql
/// ALTER ROLE app SET statement_timeout = '900ms';
/// ALTER ROLE app SET lock_timeout = '810ms';
/// ALTER ROLE app SET enable_seqscan = off;
/// ```
///
/// # Schema
///
/// The store uses a table `buttress_idempotency`, a sequence `buttress_fence`, and functions whose
/// names begin with `buttress_`. Each step is one statement that calls a function.
///
/// If the table is not in the `search_path` of the session,
/// [`build`](PostgresStoreBuilder::build) creates these objects under an advisory lock, in the
/// first schema of the `search_path`. Otherwise, it compares them with what the migration creates,
/// and its error names the difference, such as an unlogged table or a missing index. Indexes and
/// columns of your own are accepted, except for unique indexes and for columns that must be set.
/// The functions are compared without their comments and white space.
///
/// A later version of this crate may bring a further migration. After it, the
/// [`build`](PostgresStoreBuilder::build) of an older version fails and names the functions that
/// differ. Stores that were built before are not checked again.
///
/// You can also create them beforehand with [`MIGRATION`](Self::MIGRATION), as a user with the
/// rights to do so. The store's own user then needs only SELECT, INSERT, UPDATE and DELETE on the
/// table, and USAGE on the sequence.
///
/// To keep them in a separate schema, create that schema and name it in the address:
/// `postgres://app@localhost/app?options=-csearch_path%3Dguard`. For
/// [`complete_in`](Self::complete_in), that schema must also be in the `search_path` of the
/// transaction.
///
/// # Clean-up
///
/// A record whose time has ended has no effect, but takes space until [`sweep`][`Store::sweep`]
/// removes it. A sweep finds these records by an index, stops at its limit and skips locked
/// records. Any number of processes may sweep at once. Only the disk bounds the number of records.
/// If the disk is full, steps fail with [`StoreError::Full`].
///
/// # Exactly once
///
/// An effect in the same database can be committed together with its record. See
/// [`complete_in`](Self::complete_in).
///
/// [`Store::sweep`]: buttress::idempotency::Store::sweep
/// [`StoreError::Full`]: buttress::idempotency::StoreError::Full
/// [`StoreError::Unavailable`]: buttress::idempotency::StoreError::Unavailable
#[derive(Clone, Debug)]
pub struct PostgresStore {
    pool: Pool,
}

impl PostgresStore {
    /// The SQL that creates the schema. Run it once, in one transaction.
    pub const MIGRATION: &'static str = include_str!("0001.sql");
}

/// Runs the examples of the README as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
