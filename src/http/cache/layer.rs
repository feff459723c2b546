use std::{sync::Arc, time::Duration};

use http::{Extensions, HeaderMap, HeaderName, StatusCode, Uri};

use super::{key::HttpKey, key::tag, rules::HttpRules, value::HttpValue};
use crate::cache::{CacheBuilder, CacheHandle, CacheLayer};

#[cfg_attr(docsrs, doc(cfg(feature = "http")))]
impl CacheLayer<HttpKey, HttpValue, HttpRules> {
    /// Returns a builder for a cache of HTTP responses.
    ///
    /// It is for the slot of a [`Stack`](crate::Stack) with [`http()`](crate::Stack::http). See
    /// [`http::cache`](crate::http::cache) for what it keeps.
    pub fn http() -> CacheBuilder<HttpKey, HttpValue, HttpRules> {
        CacheBuilder::with_rules(HttpRules::default())
    }
}

#[cfg_attr(docsrs, doc(cfg(feature = "http")))]
impl<C> CacheBuilder<HttpKey, HttpValue, HttpRules, C> {
    /// Adds headers of the request that the response depends on.
    ///
    /// Default: `accept`, `accept-encoding` and `accept-language`, which are always in the key.
    ///
    /// A response whose `vary` names another header is not kept.
    pub fn vary(mut self, headers: impl IntoIterator<Item = HeaderName>) -> Self {
        self.rules.keys.more.extend(headers);
        self
    }

    /// Sets the function that returns the user of a request, as the scope of its key.
    ///
    /// Default: none. The response to a request with `authorization`, `proxy-authorization` or
    /// `cookie`, or with a user in its URI, is neither kept nor shared.
    ///
    /// The responses of one scope are given only to requests of the same scope. Return a value that
    /// identifies one user, such as the user's number, and never one that two users can share. For
    /// a request without a user, return `None`. If it has credentials, its response is then neither
    /// kept nor shared.
    pub fn scope_fn(
        mut self,
        scope: impl Fn(&HeaderMap, &Extensions) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.rules.keys.scope = Some(Arc::new(scope));
        self
    }

    /// Adds statuses whose responses are kept, and the time for which they are kept.
    ///
    /// Default: none. Only the statuses 200, 203, 204, 300, 301 and 308 are kept.
    ///
    /// Use it for 404 and 410, if callers often ask for what is not there. Such a response is never
    /// given when it is no longer fresh. Each status must be a 4xx other than 429.
    pub fn negative(
        mut self,
        statuses: impl IntoIterator<Item = StatusCode>,
        ttl: Duration,
    ) -> Self {
        self.rules.negative.extend(statuses.into_iter().map(|status| (status, ttl)));
        self
    }
}

#[cfg_attr(docsrs, doc(cfg(feature = "http")))]
impl CacheHandle<HttpKey, HttpValue> {
    /// Forgets all responses for a URI, whatever the method and the headers of their requests.
    ///
    /// The path and the query must be spelled like those of the requests. The host of a request is
    /// that of its header `host`, or else that of its URI. The scheme does not matter, and neither
    /// does a default port. The caches of other processes keep their entries.
    pub fn forget_uri(&self, uri: &Uri) {
        self.forget_tag(|hasher| tag(uri, None, hasher));
    }
}
