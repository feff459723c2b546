//! When the end of a call says something of the service, and when only of its caller.

use std::time::Duration;

use tokio::time::Instant;

/// Whether a service that says a call took too long was just not given more time: it was told when the
/// caller's deadline is, and answers a little earlier.
pub(crate) fn was_cut_short(began: Option<Instant>, deadline: Option<Instant>) -> bool {
    let Some(deadline) = deadline else { return false };
    let now = Instant::now();
    let whole = deadline.saturating_duration_since(began.unwrap_or(now));
    // As much as five servers, one behind the other, keep of it to answer in.
    let kept = (whole / 4).clamp(Duration::from_millis(5), Duration::from_millis(500));
    deadline.saturating_duration_since(now) <= kept
}

/// The time that a caller must have given a call before its end says anything of the service: less is
/// the caller's impatience, and callers in a hurry must not move what all share.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
