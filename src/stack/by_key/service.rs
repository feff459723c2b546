use std::{
    fmt,
    future::Future,
    hash::Hash,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    entry::{Entry, Wrapped},
    shared::Shared,
};
use crate::{
    call::{clock, oneshot::Oneshot, patience},
    keyed::Keys,
    stack::handles::Handles,
};

/// A client with a separate stack for each key.
///
/// [`KeyedStack`](crate::stack::KeyedStack) creates it. `S` is the client, and `Svc` is the stack
/// of a key around it. The service is always ready.
pub struct KeyedStackService<S, Svc, K, F, St> {
    client: S,
    shared: Arc<Shared<K, F, St>>,
    /// The services by the number of their stack.
    services: Arc<Keys<u64, Wrapped<Svc>>>,
    /// The limit of the stack that is around this service.
    limit_around: Option<Duration>,
}

impl<S, Svc, K, F, St> KeyedStackService<S, Svc, K, F, St> {
    pub(super) fn new(client: S, shared: Arc<Shared<K, F, St>>) -> Self
    where
        K: Hash + Eq,
    {
        let services = Arc::new(shared.stacks.fresh());
        Self { client, shared, services, limit_around: patience::limit_around() }
    }

    /// Returns a reference to the client.
    pub fn get_ref(&self) -> &S {
        &self.client
    }

    /// Returns a mutable reference to the client.
    ///
    /// Each stack then wraps another clone of the client, for this service. Its clones keep theirs.
    pub fn get_mut(&mut self) -> &mut S {
        self.services = Arc::new(self.services.fresh());
        &mut self.client
    }

    /// Consumes the service and returns the client.
    pub fn into_inner(self) -> S {
        self.client
    }
}

impl<S: Clone, Svc, K, F, St> Clone for KeyedStackService<S, Svc, K, F, St> {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
            shared: Arc::clone(&self.shared),
            services: Arc::clone(&self.services),
            limit_around: self.limit_around,
        }
    }
}

impl<S, Svc, K, F, St, Req> Service<Req> for KeyedStackService<S, Svc, K, F, St>
where
    S: Clone,
    Svc: Service<Req> + Clone,
    K: Hash + Eq,
    F: Fn(&Req) -> K,
    St: Handles + Layer<S, Service = Svc>,
{
    type Response = Svc::Response;
    type Error = Svc::Error;
    type Future = KeyedStackFuture<Svc, Req, St>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let now = clock::now();
        let _now = clock::share_now(now);
        let entry = self.shared.entry(&request);
        let wrapped = self.services.entry(entry.id, |_| {
            let _limit = patience::limiting(self.limit_around);
            Wrapped::new(entry.stack.layer(self.client.clone()))
        });
        let call = Oneshot::waiting(wrapped.service(), request);
        KeyedStackFuture { called: Some(now), call, entry: Some(entry) }
    }
}

impl<S: fmt::Debug, Svc, K, F, St> fmt::Debug for KeyedStackService<S, Svc, K, F, St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedStackService")
            .field("client", &self.client)
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

pin_project! {
    /// The future of a [`KeyedStackService`].
    #[must_use = "futures do nothing unless polled"]
    pub struct KeyedStackFuture<Svc: Service<Req>, Req, St> {
        // The time of the call, until the first poll.
        called: Option<Instant>,
        #[pin]
        call: Oneshot<Svc, Req>,
        // The stack is busy until the call has ended.
        entry: Option<Arc<Entry<St>>>,
    }
}

impl<Svc: Service<Req>, Req, St> Future for KeyedStackFuture<Svc, Req, St> {
    type Output = Result<Svc::Response, Svc::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(called) = this.called.take() {
            // A total timeout starts at the call. A stack with one is ready at once.
            let _now = clock::share_now(called);
            if let Err(error) = ready!(this.call.as_mut().poll_call(cx)) {
                *this.entry = None;
                return Poll::Ready(Err(error));
            }
        }
        let result = ready!(this.call.poll(cx));
        *this.entry = None;
        Poll::Ready(result)
    }
}

impl<Svc: Service<Req>, Req, St> fmt::Debug for KeyedStackFuture<Svc, Req, St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedStackFuture").finish_non_exhaustive()
    }
}
