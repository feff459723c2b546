//! The headers of a record, and the callers that can read it.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::http::wire::{self, GrpcCode};

/// The header `idempotency-replayed`, which marks a replayed response.
pub const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// The headers that name the encodings of a response, and those that ask for them.
static ENCODINGS: [(HeaderName, HeaderName); 2] = [
    (header::CONTENT_ENCODING, header::ACCEPT_ENCODING),
    (GRPC_ENCODING, HeaderName::from_static("grpc-accept-encoding")),
];

/// The headers that are kept of every response.
///
/// A status or a body has no meaning without them, or means something else.
static KEPT: [HeaderName; 38] = [
    // The status.
    header::ACCEPT,
    HeaderName::from_static("accept-patch"),
    HeaderName::from_static("accept-post"),
    header::ALLOW,
    header::LOCATION,
    header::RETRY_AFTER,
    header::WWW_AUTHENTICATE,
    // The body.
    header::ACCEPT_RANGES,
    header::CACHE_CONTROL,
    header::CONTENT_DISPOSITION,
    HeaderName::from_static("content-digest"),
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LOCATION,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::ETAG,
    header::LAST_MODIFIED,
    header::LINK,
    HeaderName::from_static("preference-applied"),
    HeaderName::from_static("repr-digest"),
    header::VARY,
    header::X_CONTENT_TYPE_OPTIONS,
    // Without them, a browser hides the response from the page that sent the request.
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    HeaderName::from_static("cross-origin-resource-policy"),
    HeaderName::from_static("timing-allow-origin"),
    // Without them, a browser lets a page do more than the first response did.
    header::CONTENT_SECURITY_POLICY,
    HeaderName::from_static("cross-origin-embedder-policy"),
    HeaderName::from_static("cross-origin-opener-policy"),
    HeaderName::from_static("permissions-policy"),
    header::REFERRER_POLICY,
    header::X_FRAME_OPTIONS,
    // gRPC.
    wire::GRPC_STATUS,
    wire::GRPC_MESSAGE,
    HeaderName::from_static("grpc-status-details-bin"),
    GRPC_ENCODING,
];

/// The headers that are never kept.
///
/// They belong to one connection or one moment, or are secret. `set-cookie` may be allowed, and
/// `trailer` is kept with the trailers that it names.
static NEVER_KEPT: [HeaderName; 14] = [
    header::SET_COOKIE,
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
    header::DATE,
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::CONTENT_LENGTH,
    IDEMPOTENCY_REPLAYED,
];

/// Returns whether a header is kept of every response.
pub(super) fn is_kept(name: &HeaderName) -> bool {
    KEPT.contains(name)
}

/// Returns whether a header is never kept.
pub(super) fn is_never_kept(name: &HeaderName) -> bool {
    NEVER_KEPT.contains(name)
}

/// Returns whether the `connection` header limits this header to one connection.
pub(super) fn is_of_connection(name: &HeaderName, headers: &HeaderMap) -> bool {
    let mut options = headers.get_all(header::CONNECTION).iter().flat_map(items);
    options.any(|option| option.eq_ignore_ascii_case(name.as_str().as_bytes()))
}

/// Adds the advice not to retry to a recorded failure, because a retry would get it again.
pub(super) fn forbid_retry(status: StatusCode, headers: &mut HeaderMap) {
    let failed = status.is_client_error() || status.is_server_error();
    if failed {
        headers.insert(wire::SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    if wire::is_grpc(headers) && (failed || has_failed_call(headers)) {
        headers.insert(wire::PUSHBACK, HeaderValue::from_static("-1"));
    }
}

/// Adds the advice not to retry to the trailers of a recorded gRPC call that failed.
pub(super) fn forbid_retry_in_trailers(trailers: &mut HeaderMap) {
    if has_failed_call(trailers) {
        trailers.insert(wire::PUSHBACK, HeaderValue::from_static("-1"));
    }
}

/// Marks the trailers of a replayed gRPC call that failed, because some clients see only them.
pub(super) fn mark_replayed_trailers(trailers: &mut HeaderMap) {
    if has_failed_call(trailers) {
        trailers.insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    }
    forbid_retry_in_trailers(trailers);
}

fn has_failed_call(fields: &HeaderMap) -> bool {
    wire::grpc_status(fields).is_some_and(|code| code != GrpcCode::Ok)
}

/// Returns whether a request accepts every encoding of a response.
///
/// A request without the header accepts every encoding (RFC 9110).
pub(super) fn accepts_encoding(request: &HeaderMap, response: &HeaderMap) -> bool {
    response.iter().all(|(name, line)| {
        let mut limits = ENCODINGS.iter().filter(|(_, accept)| request.contains_key(accept));
        let Some((_, accept)) = limits.find(|(encoding, _)| encoding == name) else {
            return true;
        };
        items(line).all(|encoding| {
            encoding.eq_ignore_ascii_case(b"identity") || accepts(request, accept, encoding)
        })
    })
}

/// Returns whether an `accept-encoding` names this encoding, or else `*`.
fn accepts(request: &HeaderMap, header: &HeaderName, encoding: &[u8]) -> bool {
    let named = |wanted: &[u8]| {
        let all = request.get_all(header).iter().flat_map(items);
        let named = all.filter_map(|item| {
            let mut parts = item.split(|byte| *byte == b';');
            let same = current_name(parts.next()?.trim_ascii()).eq_ignore_ascii_case(wanted);
            same.then(|| !parts.any(is_zero_weight))
        });
        named.reduce(|one, other| one && other)
    };
    named(current_name(encoding)).or_else(|| named(b"*")).unwrap_or(false)
}

/// Returns the current name of an encoding that also has an old one (RFC 9110).
fn current_name(encoding: &[u8]) -> &[u8] {
    for (old, current) in [(b"x-gzip".as_slice(), b"gzip".as_slice()), (b"x-compress", b"compress")]
    {
        if encoding.eq_ignore_ascii_case(old) {
            return current;
        }
    }
    encoding
}

/// Returns whether a parameter of an encoding is a weight of zero.
fn is_zero_weight(parameter: &[u8]) -> bool {
    let [b'q' | b'Q', rest @ ..] = parameter.trim_ascii() else { return false };
    let [b'=', weight @ ..] = rest.trim_ascii_start() else { return false };
    weight.trim_ascii().iter().all(|byte| matches!(byte, b'0' | b'.'))
}

/// Returns the items of a list in one header line.
fn items(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let items = line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    items.filter(|item| !item.is_empty())
}
