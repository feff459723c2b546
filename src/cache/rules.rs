//! The rules by which a cache names requests and keeps responses.

use std::{convert::Infallible, fmt, future::Future, hash::Hash, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::hashing::KeyHasher;
use crate::{
    ConfigError, Outcome,
    call::degraded::DegradedBy,
    keep::{Keep, KeepClones, Kept, KeptPart},
    sealed::Sealed,
};

/// The rules of a cache for one kind of service. This trait is sealed.
///
/// `K` is the key of a request, and `V` is the kept form of a response.
#[diagnostic::on_unimplemented(
    message = "this cache cannot keep a `{Res}` for a `{Req}`",
    label = "this cache does not fit the service",
    note = "`CacheLayer::by_fn` takes a closure `|request: &{Req}| -> Option<Key>`, and keeps \
            responses that are `Clone`, or as its `keep` says",
    note = "`CacheLayer::http` is for a stack with `http()`, or for a service beneath an \
            `HttpClientLayer`"
)]
pub trait Rules<Req, Res, K, V>: Sealed {
    /// The key of a request that may borrow from it.
    type Probe<'a>: Probe<K>
    where
        Self: 'a,
        Req: 'a;

    /// Names a request.
    #[doc(hidden)]
    fn select<'a>(&'a self, request: &'a Req, hasher: &KeyHasher) -> Selected<Self::Probe<'a>>;

    /// Takes the part to keep from a response that took `took` to arrive, until an instant.
    #[doc(hidden)]
    fn keep(
        &self,
        response: Res,
        outcome: Outcome,
        took: Duration,
        until: Instant,
    ) -> impl Future<Output = Shareable<Res, V>> + Send;

    /// Makes a response from its kept part.
    #[doc(hidden)]
    fn replay(&self, value: &V, given: Given) -> Res;

    /// Marks a response that the service gave to this caller.
    #[doc(hidden)]
    fn mark(&self, response: &mut Res, forwarded: Forwarded) {
        let _ = (response, forwarded);
    }

    /// Returns the kind of a response that a layer beneath gave instead of the service.
    #[doc(hidden)]
    fn degraded(&self, response: &Res) -> Option<DegradedBy> {
        let _ = response;
        None
    }

    /// Returns the bytes of a key beyond those of an entry.
    #[doc(hidden)]
    fn key_bytes(&self, key: &K) -> usize;
}

/// A [`Keep`] whose payload `V` becomes a response of the service again.
#[diagnostic::on_unimplemented(
    message = "this cache cannot keep a `{Res}`",
    label = "the responses of this service do not fit `{Self}`",
    note = "for HTTP, use `CacheLayer::http()` in a stack with `http()`",
    note = "`KeepClones`, the default, keeps responses that are `Clone`: write \
            `#[derive(Clone)]` at the type, respond with an `Arc`, or set another `keep`",
    note = "the `Response` of another `keep` must be `{Res}`, and its `Error` `Infallible`",
    note = "the closures of `ttl_fn` and `size_fn` take a `&{V}`, which must be what is kept"
)]
pub(super) trait KeepAs<Res, V>:
    Keep<Res, Payload = V, Response = Res, Error = Infallible>
{
}

#[diagnostic::do_not_recommend]
impl<Res, V, P> KeepAs<Res, V> for P where
    P: Keep<Res, Payload = V, Response = Res, Error = Infallible>
{
}

/// Rules that can be checked with the settings of the cache. This trait is sealed.
pub trait CheckedRules: Sealed {
    /// Checks the rules, before they are used.
    #[doc(hidden)]
    fn check(&mut self, max_entry_bytes: usize) -> Result<(), ConfigError> {
        let _ = max_entry_bytes;
        Ok(())
    }
}

/// The key of a request, as far as it is needed to find an entry. This trait is sealed.
pub trait Probe<K>: Sealed {
    /// Returns `true` if this is the key.
    #[doc(hidden)]
    fn is(&self, key: &K) -> bool;

    /// Returns the key, in memory of its own.
    #[doc(hidden)]
    fn into_key(self) -> K;
}

/// A key that was made for the request.
#[derive(Debug)]
pub struct OwnKey<K>(K);

impl<K> Sealed for OwnKey<K> {}

impl<K: Eq> Probe<K> for OwnKey<K> {
    #[inline]
    fn is(&self, key: &K) -> bool {
        self.0 == *key
    }

    fn into_key(self) -> K {
        self.0
    }
}

/// The place of a request in the cache.
#[derive(Debug)]
#[expect(unnameable_types, reason = "only the rules of this crate make it")]
pub enum Selected<P> {
    /// The request has a key. `tag` groups the keys that are forgotten together.
    Key { probe: P, hash: u64, tag: u64 },
    /// The request neither uses nor changes the cache.
    Bypass,
    /// The request may change what is kept for this tag.
    Forget { tag: u64 },
}

/// A response for the caller that asked, and its part for other callers.
#[derive(Debug)]
#[expect(unnameable_types, reason = "only the rules of this crate make it")]
pub struct Shareable<Res, V> {
    /// A response that is not kept is for one caller only.
    pub(crate) kept: Kept<V, Res>,
    /// The time for which the part is kept.
    pub(crate) time: KeepFor,
    /// It may be given when it is no longer fresh.
    pub(crate) is_given_stale: bool,
    /// The reason why it is not shared, if it is worth an event.
    pub(crate) not_kept: Option<&'static str>,
}

/// The time for which a response is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeepFor {
    /// It is only given to the callers that wait for it.
    Nothing,
    /// The time that is set for the cache.
    Ttl,
    /// This time, if it is shorter than that of the cache.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "only HTTP shortens the time"))]
    AtMost(Duration),
    /// This time.
    Exactly(Duration),
}

/// The circumstances in which a kept response is given.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "http"), allow(dead_code, reason = "only HTTP says them"))]
#[expect(unnameable_types, reason = "only the rules of this crate read it")]
pub struct Given {
    /// The age of the response.
    pub(crate) age: Duration,
    /// The seconds for which it stays fresh. Negative after that.
    pub(crate) left: i64,
    pub(crate) how: How,
}

/// The reason why a kept response is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// It is fresh.
    Fresh,
    /// It is being renewed.
    Renewed,
    /// The service was asked, and has failed or takes too long.
    Failed,
    /// The service was not asked, because it has just failed.
    HeldOff,
    /// Another caller has just asked for it. Without one, this caller would have asked.
    Collapsed(Forwarded),
}

/// The reason why a caller got the response of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(unnameable_types, reason = "only the rules of this crate read it")]
pub enum Forwarded {
    /// The cache does not keep what the request asks for.
    Bypass,
    /// The method of the request may change what is kept.
    Method,
    /// There was no entry.
    Miss,
    /// The entry was stale.
    Stale,
}

/// Returns how long a response is kept, or `None` for the time of the cache.
type TtlFn<V> = Arc<dyn Fn(&V) -> Option<Duration> + Send + Sync>;
/// Returns the bytes of a response.
type SizeFn<V> = Arc<dyn Fn(&V) -> usize + Send + Sync>;

/// The rules of [`CacheLayer::by_fn`](super::CacheLayer::by_fn). `P` keeps the responses.
pub struct ByFn<F, V, P = KeepClones> {
    key: F,
    keep: P,
    pub(super) ttl: Option<TtlFn<V>>,
    pub(super) size: Option<SizeFn<V>>,
}

impl<F, V> ByFn<F, V> {
    pub(super) fn new(key: F) -> Self {
        Self { key, keep: KeepClones, ttl: None, size: None }
    }
}

impl<F, V, P> ByFn<F, V, P> {
    pub(super) fn with_keep<Q>(self, keep: Q) -> ByFn<F, V, Q> {
        ByFn { key: self.key, keep, ttl: self.ttl, size: self.size }
    }
}

impl<F: Clone, V, P: Clone> Clone for ByFn<F, V, P> {
    fn clone(&self) -> Self {
        let (ttl, size) = (self.ttl.clone(), self.size.clone());
        Self { key: self.key.clone(), keep: self.keep.clone(), ttl, size }
    }
}

impl<F, V, P> fmt::Debug for ByFn<F, V, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByFn").finish_non_exhaustive()
    }
}

impl<F, V, P> Sealed for ByFn<F, V, P> {}
impl<F, V, P> CheckedRules for ByFn<F, V, P> {}

impl<F, Req, Res, K, V, P> Rules<Req, Res, K, V> for ByFn<F, V, P>
where
    F: Fn(&Req) -> Option<K> + Sync,
    Res: Send,
    K: Hash + Eq,
    V: Clone + Send,
    P: KeepAs<Res, V> + Sync,
{
    type Probe<'a>
        = OwnKey<K>
    where
        Self: 'a,
        Req: 'a;

    #[inline]
    fn select<'a>(&'a self, request: &'a Req, hasher: &KeyHasher) -> Selected<OwnKey<K>> {
        let Some(key) = (self.key)(request) else { return Selected::Bypass };
        let hash = hasher.hash_one(&key);
        Selected::Key { probe: OwnKey(key), hash, tag: hash }
    }

    async fn keep(
        &self,
        response: Res,
        outcome: Outcome,
        _: Duration,
        _: Instant,
    ) -> Shareable<Res, V> {
        let mut kept = self.keep.keep(response).await;
        let mut time = KeepFor::Ttl;
        if let KeptPart::Payload { payload, bytes } = &mut kept.part {
            if let Some(ttl) = &self.ttl {
                time = ttl(payload).map_or(KeepFor::Ttl, KeepFor::Exactly);
            }
            if let Some(size) = &self.size {
                *bytes = size(payload);
            }
        }
        let time = if outcome == Outcome::Success { time } else { KeepFor::Nothing };
        Shareable { kept, time, is_given_stale: true, not_kept: None }
    }

    #[inline]
    fn replay(&self, value: &V, _: Given) -> Res {
        let Ok(response) = self.keep.replay(value.clone());
        response
    }

    fn key_bytes(&self, _: &K) -> usize {
        size_of::<K>()
    }
}
