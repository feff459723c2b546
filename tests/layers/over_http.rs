//! The layers for HTTP.
//!
//! They are a separate list, because they need HTTP requests and responses.

pub(crate) use buttress::http::{
    HttpClientLayer, ReplayBody, ReplayBodyLayer, ReplaySafe, SetIdempotencyKeyLayer, UntilEnd,
    chaos::BodyChaosLayer, grpc::FirstFrameLayer,
};
use http::Request;

/// Converts the request back to the body that it had above [`ReplayBodyLayer`].
pub(crate) const PLAIN: fn(Request<ReplayBody<String>>) -> Request<String> =
    |_| Request::new(String::new());

/// Lists the layers for HTTP, which keep the error type.
macro_rules! http_layers {
    ($run:ident $($with:tt)*) => { $run! { ($($with)*)
        client: Row::new(HttpClientLayer::new()),
        first_frame: Row::new(FirstFrameLayer::new(|_: &str| true)),
        replay_bodies: {
            let layers = ServiceBuilder::new().layer(ReplayBodyLayer::new()).map_request(PLAIN);
            Row::new(layers.into_inner())
        },
        idempotency_key: Row::new(
            SetIdempotencyKeyLayer::builder().for_requests_fn(|_| true).build().unwrap()
        ),
        bulkhead_until_the_end: {
            let bulkhead = one_at_once().build().unwrap();
            let layers = ServiceBuilder::new().layer(UntilEnd::new(bulkhead.clone()));
            Row::new(layers.layer(HttpClientLayer::new()).into_inner())
                .slots(bulkhead.handle())
                .full(Effect::Rejects("bulkhead_full"), bulkhead)
        },
        circuit_breaker_until_the_end: {
            let breaker = CircuitBreakerLayer::new();
            let layers = ServiceBuilder::new().layer(UntilEnd::new(breaker.clone()));
            Row::new(layers.layer(HttpClientLayer::new()).into_inner())
                .breaker(breaker.handle(), Effect::Rejects("circuit_open"))
        },
        body_chaos: Row::new(BodyChaosLayer::builder().cuts(1.0).build().unwrap()),
        body_chaos_armed: {
            let layer = BodyChaosLayer::builder().trickles(1.0, TICK).build().unwrap();
            layer.handle().arm_for(Duration::from_secs(3600)).unwrap();
            Row::new(layer)
        },
        fallback_until_the_end: {
            let fallback = FallbackLayer::from_fn(|_| (), |(), _| ready(None));
            let layers = ServiceBuilder::new().layer(UntilEnd::new(fallback.clone()));
            Row::new(layers.layer(HttpClientLayer::new()).into_inner()).switch(fallback.handle())
        },
        stack_http_of_fallback: {
            let fallback = FallbackLayer::from_fn(|_| (), |(), _| ready(None));
            let stack = Stack::new().http().fallback(fallback.clone());
            Row::new(stack).switch(fallback.handle())
        },
        stack_http: Row::new(Stack::new().http()),
        stack_standard_http: {
            let bulkhead = one_at_once().build().unwrap();
            let breaker = CircuitBreakerLayer::new();
            let stack = Stack::standard(ReplaySafe::new())
                .bulkhead(bulkhead.clone())
                .circuit_breaker(breaker.clone())
                .http();
            Row::new(stack)
                .always_ready()
                .slots(bulkhead.handle())
                .full(Effect::Rejects("bulkhead_full"), bulkhead)
                .breaker(breaker.handle(), Effect::Rejects("circuit_open"))
        },
    } };
}
