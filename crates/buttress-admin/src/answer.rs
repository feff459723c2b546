//! Responses and their headers.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode,
    header::{
        ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE,
        REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
    },
};

use crate::body::AdminBody;

pub(crate) const TEXT: &str = "text/plain; charset=utf-8";
pub(crate) const JSON: &str = "application/json";
pub(crate) const HTML: &str = "text/html; charset=utf-8";

/// The headers of each response. None of them lets another site read it.
const HEADERS: [(HeaderName, &str); 6] = [
    (CACHE_CONTROL, "no-store"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// A response before it is known whether its body is sent.
pub(crate) struct Answer {
    status: StatusCode,
    content_type: &'static str,
    content: Bytes,
    policy: &'static str,
    allow: Option<&'static str>,
}

impl Answer {
    pub(crate) fn new(content_type: &'static str, content: impl Into<Bytes>) -> Self {
        let (status, content) = (StatusCode::OK, content.into());
        // Nothing but the page needs anything.
        let policy = "default-src 'none'; frame-ancestors 'none'";
        Self { status, content_type, content, policy, allow: None }
    }

    /// Creates the response to a request that is rejected.
    ///
    /// The text is constant, so nothing of the request returns in it.
    pub(crate) fn problem(status: StatusCode, text: &'static str) -> Self {
        Self { status, ..Self::new(TEXT, text) }
    }

    pub(crate) fn with_policy(self, policy: &'static str) -> Self {
        Self { policy, ..self }
    }

    pub(crate) fn allowing(self, allow: &'static str) -> Self {
        Self { allow: Some(allow), ..self }
    }

    pub(crate) fn into_response(self, method: &Method) -> Response<AdminBody> {
        let mut headers = HeaderMap::with_capacity(HEADERS.len() + 4);
        headers.extend(HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value))));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(self.policy));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(CONTENT_LENGTH, self.content.len().into());
        headers.extend(self.allow.map(|allow| (ALLOW, HeaderValue::from_static(allow))));
        let content = if method == Method::HEAD { Bytes::new() } else { self.content };
        let mut response = Response::new(AdminBody::new(content));
        (*response.status_mut(), *response.headers_mut()) = (self.status, headers);
        response
    }
}
