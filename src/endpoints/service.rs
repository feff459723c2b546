use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use tower_service::Service;
use tracing::level_filters::LevelFilter;

use super::{
    address::{Address, Directory, Make},
    future::ResponseFuture,
    handle::{Addresses, EndpointsHandle},
    shared::Shared,
};
use crate::{
    Classify, Error,
    call::{clock, route::Tried},
    outcome::DefaultClassifier,
    telemetry::{Registry, field, record_in_own_span},
};

/// A service that calls one of several endpoints. See the [module docs](super).
///
/// Its clones share the endpoints.
pub struct Endpoints<A, S, C = DefaultClassifier> {
    parts: Arc<Parts<A, S, C>>,
}

/// The parts that all clones share.
struct Parts<A, S, C> {
    shared: Arc<Shared<S>>,
    addresses: Arc<dyn Addresses<A>>,
    classifier: Arc<C>,
}

impl<A: Address, S: Clone + Send + 'static, C> Endpoints<A, S, C> {
    pub(super) fn from_parts(
        shared: Arc<Shared<S>>,
        addresses: Vec<(A, u8)>,
        make: Make<A, S>,
        classifier: C,
    ) -> Self {
        let addresses = Directory::new(Arc::clone(&shared), addresses, make);
        shared.start_checks();
        let (addresses, classifier) = (Arc::new(addresses) as _, Arc::new(classifier));
        Self { parts: Arc::new(Parts { shared, addresses, classifier }) }
    }

    /// Returns a handle for inspecting and changing the endpoints at run time.
    pub fn handle(&self) -> EndpointsHandle<A> {
        EndpointsHandle::new(Arc::clone(&self.parts.addresses))
    }

    /// Registers the endpoints, which count from now on, and returns the service.
    ///
    /// Default: none. Nothing is counted then.
    ///
    /// All clones are registered with it. The first registry keeps it. The endpoints are beneath a
    /// stack, which does not know them. Therefore [`Stack::register`](crate::Stack::register) does
    /// not register them.
    pub fn register(self, registry: &Registry) -> Self {
        self.parts.shared.register(registry);
        self
    }
}

impl<A, S, C> Clone for Endpoints<A, S, C> {
    fn clone(&self) -> Self {
        Self { parts: Arc::clone(&self.parts) }
    }
}

impl<A, S, C, Req> Service<Req> for Endpoints<A, S, C>
where
    S: Service<Req> + Clone,
    C: Classify<S::Response, Error<S::Error>>,
{
    type Response = S::Response;
    type Error = Error<S::Error>;
    type Future = ResponseFuture<S, Req, C>;

    #[inline]
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let Parts { shared, classifier, .. } = &*self.parts;
        shared.start_checks();
        let (now, classifier) = (clock::shared_now(), Arc::clone(classifier));
        let Some(entry) = shared.choose(Tried::current(), now) else {
            return ResponseFuture::rejected(Arc::clone(&shared.config), classifier);
        };
        let future = ResponseFuture::called(entry, request, now, classifier);
        // The future has the call by now, because printing an address runs code of the user.
        if LevelFilter::current() > LevelFilter::OFF {
            if let Some(address) = future.address() {
                record_in_own_span(field::SERVER_ADDRESS, tracing::field::display(address));
            }
        }
        future
    }
}

impl<A, S, C> fmt::Debug for Endpoints<A, S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Endpoints").field(&self.parts.shared).finish()
    }
}
