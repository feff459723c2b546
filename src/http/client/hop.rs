//! The headers of the hop, written into requests and read from responses.

use std::{sync::atomic::Ordering, time::Duration};

use http::{HeaderMap, HeaderName, Response, StatusCode};
use tokio::time::Instant;

use super::config::{Config, Write};
use crate::{
    call::{attempt::Attempt, deadline, hop::Hop},
    http::{
        head::has_failed,
        wire::{self, GrpcCode, Pushback},
    },
    telemetry::{field, record_in_own_span},
};

/// The timeout for a sidecar, from which it derives [`wire::EXPECTED_TIMEOUT`] for the server.
///
/// It is a command to a router and is therefore never read.
const UPSTREAM_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");

impl Write {
    /// Writes the remaining time and the number of the attempt. Returns `false` if no time is left.
    pub(super) fn headers(self, headers: &mut HeaderMap, grpc: bool, now: Instant) -> bool {
        let Some(left) = time_left(headers, grpc, now) else {
            write_attempt(headers, grpc);
            return true;
        };
        let value = if grpc { wire::grpc_timeout_value(left) } else { wire::millis_value(left) };
        let Some(value) = value else { return false };
        if grpc {
            headers.insert(wire::GRPC_TIMEOUT, value);
        } else {
            if let Self::HopAndEnvoy = self {
                headers.insert(UPSTREAM_TIMEOUT, value.clone());
            }
            headers.insert(wire::EXPECTED_TIMEOUT, value);
        }
        write_attempt(headers, grpc);
        true
    }
}

/// Returns the time until the ambient deadline, or `None` if there is no deadline.
///
/// A shorter time that the caller wrote into the request wins.
fn time_left(headers: &HeaderMap, grpc: bool, now: Instant) -> Option<Duration> {
    let left = deadline::deadline()?.saturating_duration_since(now);
    let asked = if grpc { wire::grpc_timeout(headers) } else { wire::expected_timeout(headers) };
    Some(asked.value.map_or(left, |asked| asked.min(left)))
}

fn write_attempt(headers: &mut HeaderMap, grpc: bool) {
    // A number received with the request being served is not the number of this attempt.
    let Some(attempt) = Attempt::current().filter(Attempt::is_own) else { return };
    let name = if grpc { wire::PREVIOUS_ATTEMPTS } else { wire::ATTEMPT_COUNT };
    let number = attempt.number();
    if number == 1 {
        headers.remove(name);
        return;
    }
    record_in_own_span(field::RESEND_COUNT, number - 1);
    headers.insert(name, wire::count_value(if grpc { number - 1 } else { number }));
}

impl Config {
    /// Records whether a response forbids a retry, for the response to the request being served.
    ///
    /// This works even if there is no retry layer between the client and the server.
    pub(super) fn read<R>(&self, response: &Response<R>, grpc: bool) {
        let headers = response.headers();
        let mut malformed = 0;
        let stop = if grpc && wire::grpc_status(headers) == Some(GrpcCode::Ok) {
            false
        } else if grpc {
            let pushback = wire::pushback(headers);
            malformed += u32::from(pushback == Pushback::Malformed);
            pushback.stops()
        } else {
            let failed = has_failed(response.status());
            if failed || response.status() == StatusCode::CONFLICT {
                malformed += wire::retry_after(headers).malformed;
            }
            failed && wire::should_not_retry(headers)
        };
        if malformed > 0 {
            self.malformed.fetch_add(malformed.into(), Ordering::Relaxed);
        }
        if stop {
            Hop::report_stop();
        }
    }
}
