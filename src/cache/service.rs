use std::{
    fmt,
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::time::Instant;
use tower_service::Service;

use super::{
    ask::Asking,
    counts::Result as Counted,
    entry::Decision,
    future::ResponseFuture,
    hashing::Hashed,
    parts::Parts,
    rules::{Given, How, Probe, Rules, Selected},
    shared::Forgetting,
};
use crate::{
    CarryRejection, Classify,
    call::{
        clock,
        completion::{AtHead, Completion},
        oneshot::Oneshot,
    },
    outcome::DefaultClassifier,
};

/// A service that gives kept responses, and shares its calls among callers.
///
/// See the [module docs](super).
pub struct Cache<S, K, V, R, C = DefaultClassifier, M = AtHead> {
    inner: S,
    parts: Arc<Parts<K, V, R, C>>,
    completion: PhantomData<fn() -> M>,
}

impl<S, K, V, R, C, M> Cache<S, K, V, R, C, M> {
    pub(super) fn new(inner: S, parts: Parts<K, V, R, C>) -> Self {
        Self { inner, parts: Arc::new(parts), completion: PhantomData }
    }
}

accessors!(Cache<S, K, V, R, C, M>);

impl<S: Clone, K, V, R, C, M> Clone for Cache<S, K, V, R, C, M> {
    fn clone(&self) -> Self {
        let parts = Arc::clone(&self.parts);
        Self { inner: self.inner.clone(), parts, completion: PhantomData }
    }
}

impl<S: fmt::Debug, K, V, R, C, M> fmt::Debug for Cache<S, K, V, R, C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("inner", &self.inner)
            .field("parts", &self.parts)
            .finish_non_exhaustive()
    }
}

impl<S, K, V, R, C, M, Req> Service<Req> for Cache<S, K, V, R, C, M>
where
    S: Service<Req, Response: Send + 'static, Error: CarryRejection + Send + 'static, Future: Send>
        + Clone
        + Send
        + 'static,
    Req: Send + 'static,
    K: Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    R: Rules<Req, S::Response, K, V> + Send + Sync + 'static,
    C: Classify<S::Response, S::Error> + Send + Sync + 'static,
    M: Completion<S::Response>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S, Req, K, V, R, C, M>;

    #[inline]
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // A hit needs nothing beneath. What the service reserved for it would be wasted.
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let now = clock::now();
        let (key, tag) = match self.parts.find::<Req, S::Response>(&request, now) {
            Found::Hit(response) => return ResponseFuture::hit(response),
            Found::Miss { key, tag } => (key, tag),
            Found::Bypass { forgetting } => {
                let call = Oneshot::waiting(self.inner.clone(), request);
                return ResponseFuture::bypass(Arc::clone(&self.parts), call, forgetting);
            }
        };
        let (parts, service) = (Arc::clone(&self.parts), self.inner.clone());
        ResponseFuture::asking(Asking { parts, key, tag, service, request, arrived: now })
    }
}

/// The first look for a request.
enum Found<K, V, Res> {
    Hit(Res),
    Miss { key: Hashed<K>, tag: u64 },
    Bypass { forgetting: Option<Forgetting<K, V>> },
}

impl<K: Eq + Clone, V, R, C> Parts<K, V, R, C> {
    #[inline]
    fn find<Req, Res>(&self, request: &Req, now: Instant) -> Found<K, V, Res>
    where
        R: Rules<Req, Res, K, V>,
    {
        let Self { shared, rules, .. } = self;
        let (probe, hash, tag) = match rules.select(request, &shared.hasher) {
            Selected::Key { probe, hash, tag } => (probe, hash, tag),
            Selected::Bypass => return Found::Bypass { forgetting: None },
            Selected::Forget { tag } => {
                let forgetting = Some(Forgetting::begin(Arc::clone(shared), tag));
                return Found::Bypass { forgetting };
            }
        };
        let entry = shared.find(hash, &probe, shared.generations.current(tag));
        if let Some(entry) = entry {
            let age = entry.age(now);
            let value =
                entry.value().filter(|_| entry.decide(age, shared.times()) == Decision::Hit);
            if let Some(value) = value {
                let given = Given { age, left: entry.left(age), how: How::Fresh };
                let response = rules.replay(value, given);
                shared.count(Counted::Hit);
                return Found::Hit(response);
            }
        }
        Found::Miss { key: Hashed::new(hash, probe.into_key()), tag }
    }
}
