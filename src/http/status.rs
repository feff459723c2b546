//! Classification of HTTP statuses.

use std::time::Duration;

use http::{HeaderMap, StatusCode};

use super::wire;
use crate::{Fault, Outcome};

/// Returns the outcome of a response by its status, and by the pause that its headers ask for.
pub(super) fn outcome_of_status(status: StatusCode, headers: &HeaderMap) -> Outcome {
    let asked = || wire::retry_after(headers).value;
    // A `Retry-After` of zero asks for no pause. The retry layer keeps its own pause.
    // Otherwise all callers would retry at once.
    let wish = |asked: Duration| (!asked.is_zero()).then_some(asked);
    let overloaded =
        |asked: Option<Duration>| Fault::Overloaded { retry_after: asked.and_then(wish) };
    Outcome::Failure(match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => Fault::TimedOut,
        StatusCode::TOO_MANY_REQUESTS => overloaded(asked()),
        StatusCode::CONFLICT => match asked() {
            None => return Outcome::Success,
            Some(asked) => Fault::InProgress { retry_after: wish(asked) },
        },
        StatusCode::SERVICE_UNAVAILABLE => match asked() {
            None => Fault::Transient,
            asked => overloaded(asked),
        },
        _ if is_final(status) || is_unprocessed(status) => Fault::Permanent,
        _ if status.is_server_error() => Fault::Transient,
        _ => return Outcome::Success,
    })
}

/// Returns the digits of a status from 400 to 599, or `None` for any other status.
pub(super) fn text_of_status(status: StatusCode) -> Option<&'static str> {
    const FIRST: u16 = 400;
    static DIGITS: [u8; 600] = {
        let mut digits = [0; 600];
        let mut at = 0;
        while at < digits.len() {
            let status = FIRST + at as u16 / 3;
            digits[at] = b'0' + (status / 100) as u8;
            digits[at + 1] = b'0' + (status / 10 % 10) as u8;
            digits[at + 2] = b'0' + (status % 10) as u8;
            at += 3;
        }
        digits
    };
    let at = usize::from(status.as_u16().checked_sub(FIRST)?) * 3;
    std::str::from_utf8(DIGITS.get(at..at + 3)?).ok()
}

/// Returns whether a 5xx is about the request or the setup, so that every retry would get it again.
///
/// The statuses are not implemented, version not supported, variant also negotiates, insufficient
/// storage, loop detected, not extended, and network authentication required. RFC 4918 forbids the
/// retry of a 507 by a program.
fn is_final(status: StatusCode) -> bool {
    matches!(status.as_u16(), 501 | 505..=508 | 510 | 511)
}

/// Returns whether a status says that the server has not processed the request.
///
/// A 421 came over a connection to the wrong server, and a 425 too early in a TLS handshake. Both
/// invite a retry of any method (RFC 9110, RFC 8470).
pub(super) fn is_unprocessed(status: StatusCode) -> bool {
    matches!(status.as_u16(), 421 | 425)
}
