//! A client without `Clone`, which retries need because they call clones.

use buttress::{Stack, http::ReplaySafe};
use http::{Request, Response};
use std::{
    future::{Ready, ready},
    io,
    task::{Context, Poll},
};
use tower::Service;

struct Client;

impl Service<Request<String>> for Client {
    type Response = Response<String>;
    type Error = io::Error;
    type Future = Ready<Result<Response<String>, io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<String>) -> Self::Future {
        ready(Ok(Response::default()))
    }
}

fn main() {
    let _ = Stack::standard(ReplaySafe::new()).http().service(Client);
}
