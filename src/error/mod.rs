//! Rejections, the errors that carry them, and the error of an invalid setting.

mod carrier;
mod config_error;
mod name;
mod reasons;
mod rejection;
mod table;

#[cfg(feature = "tonic")]
pub(crate) use self::carrier::find_rejection;
pub(crate) use self::name::{Nanos, name_or};
pub use self::{
    carrier::{BoxError, CarryRejection, Error},
    config_error::ConfigError,
    name::Name,
    reasons::{
        BulkheadFull, CircuitOpen, DeadlineExceeded, NotReady, QueueTimedOut, RateLimited, TimedOut,
    },
    rejection::{IdempotencyReason, IdempotencyRefused, Rejection},
};

#[cfg(test)]
mod tests;
