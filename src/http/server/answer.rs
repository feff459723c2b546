//! Responses for rejected calls, and the advice not to retry.

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
    error::whole_seconds,
    http::{
        head,
        idempotency::NotStarted,
        wire::{self, GrpcCode},
    },
};

/// The URL at which each reason of the idempotency layer is documented.
const REASONS: &str =
    "https://docs.rs/buttress/latest/buttress/error/enum.IdempotencyReason.html#variant.";

/// Returns the response to a request, with the advice not to retry where it applies.
pub(super) fn answer<R>(
    config: &Config,
    grpc: bool,
    hop: Hop,
    result: Result<Response<R>, Rejection>,
) -> Response<HttpServerBody<R>> {
    let spent = hop.retries_exhausted() || hop.told_to_stop();
    // After a rejection of this server's own layers, the caller may still try another instance.
    let (mut response, grpc, signal) = match result {
        Ok(response) => {
            let grpc = wire::is_grpc(response.headers());
            (response.map(|body| HttpServerBody::handler(body, hop, grpc)), grpc, true)
        }
        Err(rejection) => {
            let late = matches!(
                rejection,
                Rejection::TimedOut(_) | Rejection::DeadlineExceeded(_) | Rejection::Elapsed(_)
            );
            let mut response = response(config, grpc, &rejection);
            // If a retry was rejected, an earlier attempt may have called the handler.
            if rejection.nothing_began() && !spent {
                response.extensions_mut().insert(NotStarted);
            }
            (response, grpc, late)
        }
    };
    // Something beneath the server may also say so, such as an idempotency layer.
    let stop = spent || !grpc && wire::should_not_retry(response.headers());
    if signal && stop && has_failed(grpc, &response) {
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
        // The outcome of a response that continues is not known yet. The advice is only for
        // trailers-only responses.
        return wire::grpc_status(response.headers()).is_some_and(|code| code != GrpcCode::Ok);
    }
    head::has_failed(status)
}

/// Returns the response to a rejected request.
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
            headers.insert(header::RETRY_AFTER, whole_seconds(again).max(1).into());
        }
    }
    response
}

/// Returns the problem document (RFC 9457) of a rejection.
///
/// All of its text is fixed. It therefore needs no escaping, and no name of a layer reaches the
/// caller.
fn problem(status: StatusCode, rejection: &Rejection) -> Bytes {
    let kind = rejection.kind();
    // Problems with the same status may need different reactions. One kind of 409 may be retried,
    // and the other must not be.
    let about = match rejection {
        Rejection::Idempotency(rejected) => format!("{REASONS}{:?}", rejected.reason()),
        _ => "about:blank".to_owned(),
    };
    let title = status.canonical_reason().unwrap_or("Rejected");
    let code = status.as_u16();
    format!(r#"{{"type":"{about}","title":"{title}","status":{code},"reason":"{kind}"}}"#).into()
}

fn pushback_value(time: Duration) -> HeaderValue {
    let rounded_up = time.saturating_add(Duration::from_nanos(999_999)).as_millis();
    // The caller could not parse a larger value, and would not retry at all.
    i32::try_from(rounded_up).unwrap_or(i32::MAX).into()
}
