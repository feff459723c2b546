use buttress::{Stack, http::ReplaySafe};
use http::{Request, Response};
use std::pin::Pin;
use std::task::{Context, Poll};
use tower::service_fn;

struct Upload;

impl http_body::Body for Upload {
    type Data = bytes::Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, std::io::Error>>> {
        Poll::Ready(None)
    }
}

fn main() {
    let client = service_fn(|_: Request<Upload>| async {
        Ok::<_, std::io::Error>(Response::new(String::new()))
    });
    let _ = Stack::standard(ReplaySafe::new()).http().service(client);
}
