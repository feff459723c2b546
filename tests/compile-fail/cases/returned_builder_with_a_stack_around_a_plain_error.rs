//! A stack in tower's `ServiceBuilder`, around a client whose error cannot carry a rejection.

use buttress::{
    Stack,
    http::{ReplaySafe, ResponseBody},
};
use http::{Request, Response};
use std::io;
use tower::{Service, ServiceBuilder, service_fn};

fn client() -> impl Service<Request<String>, Response = Response<ResponseBody<String>>> {
    let client =
        service_fn(|_: Request<String>| async { Ok::<_, io::Error>(Response::new(String::new())) });
    ServiceBuilder::new().layer(Stack::standard(ReplaySafe::new()).http()).service(client)
}

fn main() {
    let _ = client();
}
