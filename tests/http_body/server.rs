use std::{
    io,
    pin::Pin,
    task::{Context, ready},
};

use buttress::{
    context::Hop,
    retry::{Backoff, ReplayClones},
    testing::{Flaky, Step as Answer},
};
use futures::future::BoxFuture;
use http::{Method, StatusCode};
use http_body::{Frame, SizeHint};

use super::*;

/// Returns responses whose body a server never reads, or whose connection continues without it.
fn unread() -> [(Method, StatusCode); 6] {
    [
        (Method::HEAD, StatusCode::OK),
        (Method::HEAD, StatusCode::NOT_FOUND),
        (Method::GET, StatusCode::NOT_MODIFIED),
        (Method::GET, StatusCode::NO_CONTENT),
        (Method::GET, StatusCode::SWITCHING_PROTOCOLS),
        (Method::CONNECT, StatusCode::OK),
    ]
}

async fn answered(rig: &Rig, method: Method, status: StatusCode, feed: &Feed) -> Response<Reader> {
    let mut request = Ask::default();
    *request.method_mut() = method;
    let mut answer = Response::new(feed.body());
    *answer.status_mut() = status;
    rig.ask(request, answer).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_body_that_nobody_will_read_is_no_cancellation() {
    for (method, status) in unread() {
        let rig = Rig::server();
        let feed = Feed::new([Step::Data("never read")]).with_size(10);
        let response = answered(&rig, method, status, &feed).await;
        rig.assert_ended((1, 0));
        assert_eq!(rig.spans.closed(), [spans::told("call", "success", None)]);
        // The server takes `Content-Length` from this size.
        assert_eq!(response.body().size_hint().exact(), Some(10));
        drop(response);
        rig.assert_ended((1, 0));
        assert_eq!(rig.spans.closed(), [spans::told("call", "success", None)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_was_rejected_has_a_body() {
    let rig = Rig::server();
    let feed = Feed::new([Step::Data("why"), Step::Closed]);
    let response = answered(&rig, Method::CONNECT, StatusCode::FORBIDDEN, &feed).await;
    rig.assert_under_way();
    assert_eq!(next(&mut task::spawn(response.into_body())), data("why"));
    rig.assert_ended((1, 0));
}

/// A body that does some work for its only frame.
struct Working(Option<BoxFuture<'static, ()>>);

impl Working {
    /// Creates a body whose retries are exhausted, as of a client beneath a handler.
    fn in_vain() -> Self {
        let broken = || Err::<(), _>(io::Error::other("broken"));
        let backoff = Backoff::constant(MS).build().unwrap();
        let retry = RetryLayer::builder(ReplayClones).retries(1).backoff(backoff).build().unwrap();
        let service = Flaky::<(), io::Error>::new([Answer::Respond(broken())], broken);
        let service = Stack::new().retry(retry).service::<_, (), _>(service);
        Self(Some(Box::pin(async move {
            assert!(service.oneshot(()).await.is_err());
        })))
    }
}

impl Body for Working {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Some(work) = &mut self.0 else { return Poll::Ready(None) };
        ready!(work.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"done")))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(4)
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_retry_in_a_body_reports_reaches_no_other_request() {
    // Polled alone, it reports to the observer.
    let (_, hop) = Hop::observe(Working::in_vain().collect()).await;
    assert!(hop.retries_exhausted());

    let handler =
        service_fn(|_: Ask| ready(Ok::<_, Infallible>(Response::new(Working::in_vain()))));
    let server = HttpServerLayer::new(Stack::new()).layer(handler);
    let response = server.oneshot(Ask::default()).await.unwrap();
    let (body, hop) = Hop::observe(response.into_body().collect()).await;
    assert_eq!((&body.unwrap().to_bytes()[..], hop), (&b"done"[..], Hop::default()));
}
