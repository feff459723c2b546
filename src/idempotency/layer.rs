use std::time::Duration;

/// Long enough that most work ends before the lease is renewed for the first time, after a third of it.
pub(super) const LEASE: Duration = Duration::from_secs(30);

/// Time for an operator to look at it, after a holiday too.
pub(super) const UNKNOWN_RETENTION: Duration = Duration::from_secs(30 * 24 * 60 * 60);
