//! Rules that tell a slow service from a caller with too little time.

use std::time::Duration;

use tokio::time::Instant;

/// Returns `true` if a service reported a timeout only because the caller's time was almost over.
///
/// A service that knows the caller's deadline responds a little before it.
pub(crate) fn was_cut_short(began: Option<Instant>, deadline: Option<Instant>) -> bool {
    let Some(deadline) = deadline else { return false };
    let now = Instant::now();
    let whole = deadline.saturating_duration_since(began.unwrap_or(now));
    // The margin of five servers in a row. Each keeps a twentieth of the time for its response,
    // but at least 1 ms and at most 100 ms.
    let kept = (whole / 4).clamp(Duration::from_millis(5), Duration::from_millis(500));
    deadline.saturating_duration_since(now) <= kept
}

/// The minimum time that a caller must give a call before its end counts against the service.
///
/// A shorter wait says something only about the caller, and must not change state that other
/// callers share.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
