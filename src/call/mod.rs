//! The parts of one call: its ambient values, its admission and its end.
//!
//! This module depends on no layer.

pub(crate) mod account;
pub(crate) mod admission;
#[cfg(feature = "http")]
pub(crate) mod ambient;
pub(crate) mod attempt;
pub(crate) mod call_end;
pub(crate) mod catch_panic;
pub(crate) mod clock;
pub mod completion;
pub(crate) mod deadline;
pub(crate) mod degraded;
pub(crate) mod ended;
pub(crate) mod ended_call;
pub(crate) mod held;
pub(crate) mod hop;
pub(crate) mod lock;
pub(crate) mod oneshot;
pub(crate) mod patience;
pub(crate) mod race;
pub(crate) mod random;
pub(crate) mod readiness;
pub(crate) mod rejectable;
pub(crate) mod rejected_by;
pub(crate) mod reserve;
pub(crate) mod restore;
pub(crate) mod route;
pub(crate) mod settle_here;
pub(crate) mod timer;
pub(crate) mod waiters;
