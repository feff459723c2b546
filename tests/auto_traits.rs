//! Compile-time tests of the auto traits of every public type.

#[macro_use]
mod layers;

use std::{
    cell::Cell,
    fmt::{self, Debug},
    future::{Ready, ready},
    task::{Context, Poll},
};

use buttress::{
    BoxError, CarryRejection, ConfigError, Deadline, Error, Fault, Outcome, Rejection, RetryHint,
    Stack,
    bulkhead::{
        BulkheadBuilder, BulkheadHandle, BulkheadLayer, QueuedBulkheadBuilder, QueuedBulkheadLayer,
        future::Drained,
    },
    cache::{ByFn, CacheBuilder, CacheCounts, CacheHandle, CacheLayer},
    chaos::{ChaosBuilder, ChaosHandle, ChaosLayer, Closure},
    circuit_breaker::{
        CircuitBreakerBuilder, CircuitBreakerHandle, CircuitBreakerLayer, Snapshot, State,
        TripReason, Watch,
    },
    context::{
        Attempt, Hop,
        future::{Detached, Observe, Scope},
    },
    endpoints::{EndpointState, EndpointStatus, EndpointsBuilder, EndpointsHandle},
    error::{
        BulkheadFull, CircuitOpen, DeadlineExceeded, Name, NoEndpoint, NotReady, QueueTimedOut,
        RateLimited, SwitchedOff, TimedOut,
    },
    fallback::{FallbackBuilder, FallbackHandle, FallbackLayer, FallbackValue, Reason},
    outcome::{ClassifyFn, DefaultClassifier},
    retry::{
        Backoff, BackoffBuilder, Budget, BudgetBuilder, Jitter, ReplayClones, RetryBuilder,
        RetryLayer, ThrottleBuilder,
    },
    stack::{Explanation, Warning},
    telemetry::CallSpanLayer,
    testing::Flaky,
    timeout::{Fixed, TimeoutBuilder, TimeoutLayer, TotalTimeoutLayer},
};
use tower::{Layer, Service};

use self::layers::{Failure, Row, Text};

const fn shared<T: Send + Sync + Clone + Debug + 'static>() {}
const fn shared_error<T: std::error::Error + Send + Sync + 'static>() {}
const fn future<T: Send>() {}
const fn carrier<T: CarryRejection>() {}

#[test]
fn plain_values_are_shared_between_threads() {
    shared::<Attempt>();
    shared::<Backoff>();
    shared::<BackoffBuilder>();
    shared::<Budget>();
    shared::<BulkheadBuilder>();
    shared::<BulkheadHandle>();
    shared::<BulkheadLayer>();
    shared::<CacheBuilder<u64, u64, ByFn<fn(&u64) -> Option<u64>, u64>>>();
    shared::<CacheCounts>();
    shared::<CacheHandle<u64, u64>>();
    shared::<CacheLayer<u64, u64, ByFn<fn(&u64) -> Option<u64>, u64>>>();
    shared::<CallSpanLayer>();
    shared::<ChaosBuilder>();
    shared::<ChaosBuilder<Closure<fn()>, Closure<fn(&()) -> u32>, Closure<fn(&()) -> bool>>>();
    shared::<ChaosHandle>();
    shared::<ChaosLayer>();
    shared::<ChaosLayer<Closure<fn()>, Closure<fn(&()) -> u32>, Closure<fn(&()) -> bool>>>();
    shared::<CircuitBreakerBuilder>();
    shared::<CircuitBreakerHandle>();
    shared::<CircuitBreakerLayer>();
    shared::<Deadline>();
    shared::<DefaultClassifier>();
    shared::<ClassifyFn<fn(Result<&(), &()>) -> Outcome>>();
    shared::<EndpointState<String>>();
    shared::<EndpointStatus>();
    shared::<EndpointsHandle<String>>();
    shared::<Error<std::sync::Arc<str>>>();
    shared::<Explanation>();
    shared::<FallbackBuilder<FallbackValue<()>>>();
    shared::<FallbackHandle>();
    shared::<FallbackLayer<FallbackValue<()>>>();
    shared::<Fault>();
    shared::<Fixed>();
    shared::<Hop>();
    shared::<Jitter>();
    shared::<Name>();
    shared::<Outcome>();
    shared::<QueuedBulkheadBuilder>();
    shared::<QueuedBulkheadLayer>();
    shared::<Reason>();
    shared::<RetryHint>();
    shared::<RetryLayer<ReplayClones>>();
    shared::<Snapshot>();
    shared::<Stack>();
    shared::<State>();
    shared::<TimeoutBuilder>();
    shared::<ThrottleBuilder>();
    shared::<BudgetBuilder>();
    shared::<TimeoutLayer>();
    shared::<TotalTimeoutLayer>();
    shared::<TripReason>();
    shared::<Warning>();
    future::<EndpointsBuilder<String, ()>>();
    future::<RetryBuilder<ReplayClones>>();
    future::<Drained>();
    future::<Watch>();
    future::<Scope<Ready<()>>>();
    future::<Detached<Ready<()>>>();
    future::<Observe<Ready<()>>>();
}

#[test]
fn errors_are_errors() {
    shared_error::<Rejection>();
    shared_error::<TimedOut>();
    shared_error::<DeadlineExceeded>();
    shared_error::<CircuitOpen>();
    shared_error::<BulkheadFull>();
    shared_error::<QueueTimedOut>();
    shared_error::<NoEndpoint>();
    shared_error::<SwitchedOff>();
    shared_error::<NotReady>();
    shared_error::<RateLimited>();
    shared_error::<ConfigError>();
    shared_error::<Error<std::io::Error>>();
    shared_error::<Error<std::convert::Infallible>>();
    carrier::<Error<std::convert::Infallible>>();
    carrier::<Error<Cell<()>>>();
    carrier::<BoxError>();
}

/// A service that is `Send` but not `Sync`. Its clones are `Send` too.
#[derive(Clone, Debug)]
struct NotSync(Cell<u32>);

impl Service<Cell<u32>> for NotSync {
    type Response = Cell<u32>;
    type Error = Failure;
    type Future = Ready<Result<Cell<u32>, Failure>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Cell<u32>) -> Self::Future {
        self.0.set(self.0.get() + 1);
        ready(Ok(request))
    }
}

/// Checks that a layer keeps `Send + Sync + Clone`, with a future that is `Send` and not `Sync`.
fn around_shared<L>(row: Row<L>)
where
    L: Layer<Flaky<Cell<()>, Failure>> + Send + Sync + Clone + Debug + 'static,
    L::Service: Service<u32, Future: Send + Debug, Error = Failure> + Send + Sync + Clone + Debug,
{
    let _ = row.layer.layer(Flaky::new([], || Ok(Cell::new(()))));
}

/// Does the same for a layer that changes the error type of the service.
fn into_a_stack<L>(row: Row<L>)
where
    L: Layer<Flaky<Cell<()>, fmt::Error>> + Send + Sync + Clone + Debug + 'static,
    L::Service: Service<Text, Future: Send + Debug, Error: CarryRejection>,
    L::Service: Send + Sync + Clone + Debug,
{
    let _ = row.layer.layer(Flaky::new([], || Ok(Cell::new(()))));
}

/// Checks that a layer keeps `Send` of a service, whatever the request.
fn around_not_sync<L>(row: Row<L>)
where
    L: Layer<NotSync>,
    L::Service: Service<Cell<u32>, Future: Send, Error = Failure> + Send + Clone + Debug,
{
    let _ = row.layer.layer(NotSync(Cell::new(0)));
}

#[tokio::test(start_paused = true)]
async fn every_service_is_shared_where_the_inner_one_is() {
    for_every!(layers_of_any_response, |_name, make| around_shared(make()));
    for_every!(ways_into_a_stack, |_name, make| into_a_stack(make()));
}

#[tokio::test(start_paused = true)]
async fn every_service_is_send_where_the_inner_one_is_only_that() {
    for_every!(layers_of_any_response, |_name, make| around_not_sync(make()));
}

/// Checks a layer around a service whose responses it keeps.
fn around_kept<L>(layer: L)
where
    L: Layer<Flaky<u64, Failure>> + Send + Sync + Clone + Debug + 'static,
    L::Service: Service<u32, Future: Send + Debug, Error = Failure> + Send + Sync + Clone + Debug,
{
    let _ = layer.layer(Flaky::new([], || Ok(1)));
}

#[tokio::test(start_paused = true)]
async fn a_cache_is_shared_where_the_inner_service_is() {
    let key = |request: &u32| Some(*request);
    around_kept(CacheLayer::by_fn(key).build().unwrap());
    around_kept(Stack::new().cache(CacheLayer::by_fn(key).build().unwrap()));
}

#[test]
fn names_of_layers_compare_by_text() {
    const fn ordered<T: Eq>() {}
    ordered::<Name>();
    ordered::<Rejection>();
    assert_eq!(Name::from("a"), Name::from(String::from("a")));
}

#[cfg(feature = "http")]
mod http {
    use super::*;
    use ::http::{Request, Response};
    use buttress::{
        completion::CallEnd,
        http::{
            AutoClassifier, BufferedBody, GrpcClassifier, HttpClassifier, HttpClientBuilder,
            HttpClientLayer, HttpServerLayer, HttpStack, ReplayBody, ReplayBodyBuilder,
            ReplayBodyLayer, ReplaySafe, ResponseBody, SetIdempotencyKeyBuilder, Trust, UntilEnd,
            chaos::{BodyChaosBuilder, BodyChaosLayer, ChaosBody},
            grpc::FirstFrameLayer,
            idempotency::{
                HeaderKey, HeaderKeyBuilder, ReadHttp, ReadHttpBuilder, RecordHttp,
                RecordHttpBuilder,
            },
            replay::ReplayBodyError,
            server::{Handler, HttpServer, HttpServerBody},
        },
    };
    use bytes::Bytes;
    use http_body_util::combinators::UnsyncBoxBody;
    use std::convert::Infallible;

    #[test]
    fn what_speaks_http_is_shared_between_threads() {
        shared::<AutoClassifier>();
        shared::<HttpClassifier>();
        shared::<GrpcClassifier>();
        shared::<HttpClientLayer>();
        shared::<HttpClientBuilder>();
        shared::<ReplaySafe>();
        shared::<ReplayBodyLayer>();
        shared::<ReplayBodyBuilder>();
        shared::<SetIdempotencyKeyBuilder>();
        shared::<FirstFrameLayer<fn(&str) -> bool>>();
        const fn shared_value<T: Send + Sync + Clone + Debug + 'static>(_: &T) {}
        let stack = || Stack::new().bulkhead(BulkheadLayer::new());
        shared_value(&HttpServerLayer::new(stack()));
        shared_value(&HttpServerLayer::builder(stack()));
        shared::<HttpStack>();
        shared::<BodyChaosBuilder>();
        shared::<BodyChaosLayer>();
        shared::<Trust>();
        shared::<HeaderKey>();
        shared::<HeaderKeyBuilder>();
        shared::<ReadHttp>();
        shared::<ReadHttpBuilder>();
        shared::<RecordHttp>();
        shared::<RecordHttpBuilder>();
        shared::<UntilEnd<BulkheadLayer>>();
        shared_error::<ReplayBodyError>();
    }

    #[tokio::test(start_paused = true)]
    async fn every_service_that_speaks_http_is_shared_where_the_inner_one_is() {
        type Failure = Error<fmt::Error>;
        fn around_shared<L>(row: Row<L>)
        where
            L: Layer<Flaky<Response<String>, Failure>> + Send + Sync + Clone + Debug + 'static,
            L::Service: Service<Request<String>, Future: Send + Debug, Error = Failure>,
            L::Service: Send + Sync + Clone + Debug,
        {
            let _ = row.layer.layer(Flaky::new([], || Ok(Response::default())));
        }
        for_every!(http_layers, |_name, make| around_shared(make()));
    }

    #[test]
    fn bodies_are_what_the_bodies_in_them_are() {
        const fn body<T: Send + Sync + Unpin + Debug>() {}
        body::<ResponseBody<String>>();
        body::<HttpServerBody<ResponseBody<String>>>();
        body::<ReplayBody<String>>();
        body::<BufferedBody<ResponseBody<String>>>();
        body::<ChaosBody<String>>();
        const fn sends<T: Send>() {}
        sends::<CallEnd>();
        // This also holds for a body that is not `Sync`, as most bodies from a network are.
        sends::<ResponseBody<UnsyncBoxBody<Bytes, fmt::Error>>>();
        const fn sync<T: Send + Sync>() {}
        sync::<ReplayBody<Cell<u32>>>();
    }

    #[test]
    fn a_server_goes_where_axum_and_tonic_want_it() {
        const fn route<S>(_: &S)
        where
            S: Service<Request<String>, Error = Infallible, Future: Send>
                + Clone
                + Send
                + Sync
                + 'static,
        {
        }
        #[derive(Clone, Debug)]
        struct Routes;
        impl Service<Request<String>> for Routes {
            type Response = Response<String>;
            type Error = Infallible;
            type Future = Ready<Result<Self::Response, Infallible>>;
            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }
            fn call(&mut self, _: Request<String>) -> Self::Future {
                ready(Ok(Response::default()))
            }
        }
        let stack = Stack::new().bulkhead(BulkheadLayer::new());
        route(&HttpServerLayer::new(stack).layer(Routes));
        shared::<Handler<Routes>>();
        shared::<HttpServer<Routes, Routes>>();
    }
}
