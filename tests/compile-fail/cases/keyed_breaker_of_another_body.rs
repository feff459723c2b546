//! A keyed breaker whose key function takes a request with another body than the client's.
//!
//! The text is rustc's own. It points at the closure, and names the type to write as the expected
//! signature. Its last suggestion is recorded but not wanted.

use buttress::{Stack, circuit_breaker::CircuitBreakerLayer};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use std::{
    future::{Ready, ready},
    io,
    task::{Context, Poll},
};
use tower::Service;

#[derive(Clone)]
struct Client;

impl Service<Request<Full<Bytes>>> for Client {
    type Response = Response<String>;
    type Error = io::Error;
    type Future = Ready<Result<Response<String>, io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Full<Bytes>>) -> Self::Future {
        ready(Ok(Response::default()))
    }
}

fn main() -> Result<(), buttress::ConfigError> {
    let breaker = CircuitBreakerLayer::builder()
        .keyed_fn(|request: &Request<String>| request.uri().host().map(str::to_owned))
        .build()?;
    let _ = Stack::new().circuit_breaker(breaker).http().service(Client);
    Ok(())
}
