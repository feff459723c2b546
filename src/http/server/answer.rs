//! What a caller reads of a rejection.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::{
    body::HttpServerBody,
    config::Config,
    status::{status_of, write_status},
};
use crate::{
    Rejection,
    call::hop::Hop,
    http::{
        head,
        idempotency::NotStarted,
        wire::{self, GrpcCode},
    },
};

/// Where each reason of the idempotency guard is explained.
const REASONS: &str =
    "https://docs.rs/buttress/latest/buttress/error/enum.IdempotencyReason.html#variant.";

/// The response to a request, with the signal not to retry above where it belongs.
pub(super) fn answer<R>(
    config: &Config,
    grpc: bool,
    hop: Hop,
    result: Result<Response<R>, Rejection>,
) -> Response<HttpServerBody<R>> {
    let spent = hop.retries_exhausted() || hop.told_to_stop();
    // A refusal of our own layers is no reason not to ask another instance.
    let (mut response, grpc, signal) = match result {
        Ok(response) => {
            let grpc = wire::is_grpc(response.headers());
            (response.map(|body| HttpServerBody::handler(body, hop, grpc)), grpc, true)
        }
        Err(rejection) => {
            let late = matches!(rejection, Rejection::TimedOut(_) | Rejection::DeadlineExceeded(_));
            let mut response = response(config, grpc, &rejection);
            // A retry may have asked the handler before it was itself refused.
            if rejection.nothing_began() && !spent {
                response.extensions_mut().insert(NotStarted);
            }
            (response, grpc, late)
        }
    };
    if signal && spent && has_failed(grpc, &response) {
        let headers = response.headers_mut();
        if grpc {
            headers.insert(wire::PUSHBACK, HeaderValue::from_static("-1"));
        } else {
            headers.insert(wire::SHOULD_RETRY, HeaderValue::from_static("false"));
            if config.for_envoy {
                headers.insert(wire::RATELIMITED, HeaderValue::from_static("true"));
            }
        }
    }
    response
}

fn has_failed<B>(grpc: bool, response: &Response<B>) -> bool {
    let status = response.status();
    if grpc && status == StatusCode::OK {
        // Of a response that goes on it is not known; the signal is for trailers-only answers.
        return wire::grpc_status(response.headers()).is_some_and(|code| code != GrpcCode::Ok);
    }
    head::has_failed(status)
}

/// The response in place of the handler's.
fn response<R>(config: &Config, grpc: bool, rejection: &Rejection) -> Response<HttpServerBody<R>> {
    let status = status_of(config.full, rejection);
    let again = rejection.come_back();
    let mut response;
    if grpc {
        response = Response::new(HttpServerBody::problem(Bytes::new()));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        write_status(headers, rejection);
        if let Some(again) = again {
            headers.insert(wire::PUSHBACK, pushback_value(again));
        }
    } else {
        response = Response::new(HttpServerBody::problem(problem(status, rejection)));
        *response.status_mut() = status;
        let headers: &mut HeaderMap = response.headers_mut();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, kind);
        if let Some(again) = again {
            headers.insert(header::RETRY_AFTER, whole_seconds(again).into());
        }
    }
    response
}

/// A problem document of RFC 9457. All that goes into it is made of fixed words, so nothing has to be
/// escaped, and no name of a layer reaches a caller.
fn problem(status: StatusCode, rejection: &Rejection) -> Bytes {
    let kind = rejection.kind();
    // Two problems may share a status and ask for different things: 409 is also what must not be retried.
    let about = match rejection {
        Rejection::Idempotency(rejected) => format!("{REASONS}{:?}", rejected.reason()),
        _ => "about:blank".to_owned(),
    };
    let title = status.canonical_reason().unwrap_or("Refused");
    let code = status.as_u16();
    format!(r#"{{"type":"{about}","title":"{title}","status":{code},"reason":"{kind}"}}"#).into()
}

/// Rounded up: nobody is told to come back too early, or at once.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0)).max(1)
}

fn pushback_value(time: Duration) -> HeaderValue {
    let rounded_up = time.saturating_add(Duration::from_nanos(999_999)).as_millis();
    // Longer than a caller can read would tell it not to retry at all.
    i32::try_from(rounded_up).unwrap_or(i32::MAX).into()
}
