//! Tests of the idempotency layer, property by property, on a paused clock.
//!
//! The store is scripted, and can also return wrong results.

mod deadlines;
mod duplicates;
mod keys;
mod leases;
mod leaving;
mod metrics;
#[path = "../numbers/mod.rs"]
mod numbers;
mod operator;
mod panics;
mod results;
mod shape;
mod shares;
mod shutdown;
mod store_faults;
mod support;
mod unknown;
