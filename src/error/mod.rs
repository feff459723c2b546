//! Rejections, the errors that carry them, and the error of an invalid setting.

mod carrier;
mod config_error;
mod name;
mod reasons;
mod rejection;

use std::error::Error as StdError;

#[cfg(feature = "tonic")]
pub(crate) use self::carrier::find_rejection;
pub(crate) use self::name::{Nanos, name_or};
pub use self::{
    carrier::{CarryRejection, Error},
    config_error::ConfigError,
    name::Name,
    reasons::{
        BulkheadFull, CircuitOpen, DeadlineExceeded, NotReady, QueueTimedOut, RateLimited, TimedOut,
    },
    rejection::{IdempotencyReason, IdempotencyRefused, Rejection},
};

/// The boxed error that tower's own layers use.
pub type BoxError = Box<dyn StdError + Send + Sync>;

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use super::*;

    #[test]
    fn a_rejection_is_three_words() {
        assert_eq!(size_of::<Rejection>(), 24);
        assert_eq!(size_of::<Result<u64, Error<Infallible>>>(), 24);
    }

    #[test]
    fn times_in_a_rejection_are_kept_to_the_nanosecond_and_capped() {
        for time in [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(86_400)] {
            assert_eq!(CircuitOpen::by(None, Some(time)).retry_after(), Some(time));
        }
        assert!(
            TimedOut::by(None, Duration::MAX).limit() > Duration::from_secs(86_400 * 365 * 500)
        );
        assert_eq!(CircuitOpen::by(None, None).retry_after(), None);
    }
}
