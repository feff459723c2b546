//! Reads the headers of a request that describe its call.

use std::{sync::atomic::Ordering, time::Duration};

use http::HeaderMap;
use tokio::time::Instant;

use super::{config::Trust, shared::Shared};
use crate::{call::attempt::Attempt, http::wire};

/// The call data that a request carries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inbound {
    pub(super) grpc: bool,
    pub(super) began: Instant,
    /// The deadline of the response, or `None` without a limit.
    pub(super) end: Option<Instant>,
    pub(super) attempt: Option<Attempt>,
}

impl Shared {
    pub(super) fn read(&self, headers: &HeaderMap) -> Inbound {
        let began = Instant::now();
        let grpc = wire::is_grpc(headers);
        let (time, attempt) = match self.config.trust {
            Trust::Inbound => self.inbound(headers, grpc),
            Trust::None => (None, None),
        };
        let end = [self.config.limit, time].into_iter().flatten().min();
        Inbound { grpc, began, end: end.and_then(|limit| began.checked_add(limit)), attempt }
    }

    /// Returns the time that the caller leaves for a response, and its attempt.
    fn inbound(&self, headers: &HeaderMap, grpc: bool) -> (Option<Duration>, Option<Attempt>) {
        let (time, attempt, malformed);
        if grpc {
            let (timeout, previous) =
                (wire::grpc_timeout(headers), wire::previous_attempts(headers));
            time = timeout.value;
            attempt = previous.value.map(|previous| previous.saturating_add(1));
            malformed = timeout.malformed.saturating_add(previous.malformed);
        } else {
            let (envoy, connect) =
                (wire::expected_timeout(headers), wire::connect_timeout(headers));
            let count = wire::attempt_count(headers);
            time = [envoy.value, connect.value].into_iter().flatten().min();
            attempt = count.value;
            malformed =
                envoy.malformed.saturating_add(connect.malformed).saturating_add(count.malformed);
        }
        if malformed > 0 {
            self.malformed.fetch_add(malformed.into(), Ordering::Relaxed);
        }
        (time.map(without_margin), attempt.map(Attempt::received))
    }
}

/// Returns the caller's time minus a margin, in which the response reaches the caller.
fn without_margin(time: Duration) -> Duration {
    let margin = (time / 20).clamp(Duration::from_millis(1), Duration::from_millis(100));
    time.saturating_sub(margin)
}
