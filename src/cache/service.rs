use std::{
    fmt,
    hash::Hash,
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll},
};

use tower_service::Service;

use super::{
    ask::Asking,
    counts::Result as Counted,
    entry::Decision,
    future::{Forgetting, ResponseFuture},
    parts::Parts,
    rules::{Given, How, Rules, Selected},
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
    S: Service<Req, Error: CarryRejection + Send, Response: Send, Future: Send>
        + Clone
        + Send
        + 'static,
    S::Response: 'static,
    S::Error: 'static,
    Req: Send + 'static,
    K: Hash + Eq + Clone + Send + Sync + 'static,
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
        let Parts { shared, rules, .. } = &*self.parts;
        let (key, tag) = match rules.select(&request, &shared.hasher) {
            Selected::Key { key, tag } => (key, tag),
            Selected::Bypass => {
                shared.count(Counted::Bypassed);
                let call = Oneshot::waiting(self.inner.clone(), request);
                return ResponseFuture::bypass(Arc::clone(&self.parts), call, None);
            }
            Selected::Forget { tag } => {
                let forgetting = Forgetting::begin(Arc::clone(shared), tag);
                shared.count(Counted::Bypassed);
                let call = Oneshot::waiting(self.inner.clone(), request);
                return ResponseFuture::bypass(Arc::clone(&self.parts), call, Some(forgetting));
            }
        };
        let now = clock::now();
        let entry = shared.get(&key, shared.generations.current(tag));
        if let Some(entry) = &entry {
            if entry.decide(now, shared.times()) == Decision::Hit {
                if let Some(value) = entry.value() {
                    shared.count(Counted::Hit);
                    let (age, left) = (entry.age(now), entry.left(now));
                    let given = Given { age, left, how: How::Fresh };
                    return Self::Future::hit(Rules::<Req, S::Response, K, V>::replay(
                        &**rules, value, given,
                    ));
                }
            }
        }
        let (parts, service) = (Arc::clone(&self.parts), self.inner.clone());
        ResponseFuture::asking(Asking { parts, key, tag, service, request, arrived: now })
    }
}
