//! A client without `Clone`, which the future of a total timeout clones to wait for it.

use buttress::Stack;
use http::{Request, Response};
use std::{
    future::{Ready, ready},
    io,
    task::{Context, Poll},
    time::Duration,
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
    let _ = Stack::new().total_timeout(Duration::from_secs(1)).service(Client);
}
