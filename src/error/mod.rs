//! Rejections, the errors that carry them, and the error of an invalid setting.

mod carrier;
mod causes;
mod config_error;
mod name;
mod nanos;
mod reasons;
mod rejection;
pub(crate) mod result;
mod row;
mod shared;
mod tower;

#[cfg(any(feature = "reqwest", feature = "tonic"))]
pub(crate) use self::carrier::find_rejection;
#[cfg(feature = "http")]
pub(crate) use self::nanos::whole_seconds;
#[cfg(feature = "tonic")]
pub(crate) use self::tower::rejection_of_tower;
pub use self::{
    carrier::{BoxError, CarryRejection, Error},
    config_error::ConfigError,
    name::Name,
    reasons::{
        BulkheadFull, CircuitOpen, DeadlineExceeded, Elapsed, LoadShed, NoEndpoint, NotReady,
        QueueTimedOut, RateLimited, SwitchedOff, TimedOut,
    },
    rejection::{IdempotencyReason, IdempotencyRejected, Rejection},
    shared::SharedFailure,
};
pub(crate) use self::{causes::WithCauses, nanos::Nanos};

#[cfg(test)]
mod tests;
