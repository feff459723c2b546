//! What the idempotency guard promises, property by property, on a paused clock and with a store that does
//! what it is told, wrong things too.

mod deadlines;
mod duplicates;
mod keys;
mod leases;
mod leaving;
mod operator;
mod panics;
mod results;
mod shape;
mod shutdown;
mod store_faults;
mod support;
mod unknown;
