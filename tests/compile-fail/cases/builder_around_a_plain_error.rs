//! Several layers in tower's `ServiceBuilder`, around an error that cannot carry a rejection.

use buttress::{
    bulkhead::BulkheadLayer, circuit_breaker::CircuitBreakerLayer, timeout::TimeoutLayer,
};
use std::{io, time::Duration};
use tower::{Service, ServiceBuilder, service_fn};

fn client() -> impl Service<String, Response = usize, Error = io::Error> {
    ServiceBuilder::new()
        .layer(BulkheadLayer::default())
        .layer(CircuitBreakerLayer::new())
        .layer(TimeoutLayer::new(Duration::from_secs(2)))
        .service(service_fn(|path: String| async move { Ok::<_, io::Error>(path.len()) }))
}

fn main() {
    let _ = client();
}
