//! A kept HTTP response.

use std::{fmt, io::Write, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version, header, response::Parts,
};
use http_body::Body;

use super::{control, key::copy};
use crate::{
    cache::{Forwarded, Given, How},
    call::degraded::Degraded,
    http::{kept_extensions::KeptExtensions, read::FromRead, response_body::ResponseBody},
};

/// The header `cache-status` of RFC 9211.
pub(super) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The bytes of a header besides its name and value.
const HEADER_BYTES: usize = 64;

/// A kept HTTP response. Clones share it.
#[derive(Clone)]
pub struct HttpValue(Arc<Stored>);

struct Stored {
    status: StatusCode,
    version: Version,
    /// With places for the two headers of a cache, so that a clone does not grow.
    headers: HeaderMap,
    /// Another cache has responded before this one.
    has_status: bool,
    body: Bytes,
    trailers: Option<HeaderMap>,
    /// The age that its head had when it arrived.
    age: Duration,
    /// The mark of a response that is given to the callers that wait for it, and is not kept.
    degraded: Option<Degraded>,
    extensions: Option<KeptExtensions>,
}

impl fmt::Debug for HttpValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers and bodies of responses do not belong in logs.
        f.debug_struct("HttpValue")
            .field("status", &self.0.status)
            .field("bytes", &self.0.body.len())
            .finish_non_exhaustive()
    }
}

impl HttpValue {
    /// Keeps a response, in memory of its own, and returns its bytes. It took `took` to arrive.
    ///
    /// The received bytes share the buffer of their connection, which would stay in memory too.
    pub(super) fn new(
        head: &Parts,
        took: Duration,
        body: &[u8],
        trailers: Option<&HeaderMap>,
    ) -> (Self, usize) {
        let (status, version) = (head.status, head.version);
        let age = control::age(&head.headers).saturating_add(took);
        let mut headers = end_to_end(&head.headers);
        let has_status = headers.contains_key(CACHE_STATUS);
        let trailers = trailers.map(end_to_end);
        let extensions = head.extensions.get::<KeptExtensions>().cloned();
        let bytes = body.len()
            + bytes(&headers)
            + trailers.as_ref().map_or(0, bytes)
            + extensions.as_ref().map_or(0, KeptExtensions::bytes);
        headers.insert(header::AGE, HeaderValue::from_static("0"));
        headers.entry(CACHE_STATUS).or_insert(HeaderValue::from_static("buttress"));
        let body = Bytes::copy_from_slice(body);
        let degraded = head.extensions.get().cloned();
        let stored = Stored {
            status,
            version,
            headers,
            has_status,
            body,
            trailers,
            age,
            degraded,
            extensions,
        };
        (Self(Arc::new(stored)), bytes)
    }

    /// Creates a response from the kept one.
    pub(super) fn replay<B: Body<Data = Bytes>>(&self, given: Given) -> Response<ResponseBody<B>> {
        let Stored { status, version, headers, has_status, body, trailers, age, .. } = &*self.0;
        let mut response = Response::new(ResponseBody::whole(body.clone(), trailers.clone()));
        *response.status_mut() = *status;
        *response.version_mut() = *version;
        *response.headers_mut() = headers.clone();
        if let Some(extensions) = &self.0.extensions {
            extensions.add_to(response.extensions_mut());
        }
        if let Some(degraded) = &self.0.degraded {
            response.extensions_mut().insert(degraded.clone());
        }
        let headers = response.headers_mut();
        let age = age.saturating_add(given.age).as_secs();
        headers.insert(header::AGE, header_of(format_args!("{age}")));
        let left = given.left;
        let status = match given.how {
            How::Fresh => header_of(format_args!("buttress; hit; ttl={left}")),
            How::Renewed => {
                header_of(format_args!("buttress; hit; ttl={left}; detail=stale-while-revalidate"))
            }
            How::Failed => {
                header_of(format_args!("buttress; fwd=stale; ttl={left}; detail=stale-if-error"))
            }
            // RFC 9211, section 2.1: a stale response is a hit unless the request was forwarded.
            How::HeldOff => {
                header_of(format_args!("buttress; hit; ttl={left}; detail=stale-if-error"))
            }
            How::Collapsed(Forwarded::Stale) => {
                HeaderValue::from_static("buttress; fwd=stale; collapsed")
            }
            How::Collapsed(_) => HeaderValue::from_static("buttress; fwd=uri-miss; collapsed"),
        };
        if *has_status {
            headers.append(CACHE_STATUS, status);
        } else {
            headers.insert(CACHE_STATUS, status);
        }
        response
    }
}

/// Returns a header with this text, which is ASCII and short. It allocates once.
fn header_of(text: fmt::Arguments<'_>) -> HeaderValue {
    const LONGEST: usize = 80;
    let mut buffer = [0; LONGEST];
    let mut rest = &mut buffer[..];
    // Never fails, because the longest text fits.
    let _ = rest.write_fmt(text);
    let length = LONGEST - rest.len();
    let value = HeaderValue::from_bytes(&buffer[..length]);
    value.unwrap_or(HeaderValue::from_static("buttress"))
}

fn bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER_BYTES).sum()
}

/// Returns the headers of a response without those of its connection.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    const OF_CONNECTION: [HeaderName; 10] = [
        header::CONNECTION,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        header::PROXY_AUTHENTICATE,
        HeaderName::from_static("proxy-authentication-info"),
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::AGE,
    ];
    let lines = headers.get_all(header::CONNECTION).iter();
    let named: Vec<&str> = lines.filter_map(|line| line.to_str().ok()).collect();
    let is_named = |name: &HeaderName| {
        let mut names = named.iter().flat_map(|line| line.split(',')).map(str::trim);
        names.any(|it| name.as_str().eq_ignore_ascii_case(it))
    };
    let kept = headers.iter().filter(|(name, _)| !OF_CONNECTION.contains(name) && !is_named(name));
    kept.map(|(name, value)| (name.clone(), copy(value))).collect()
}
