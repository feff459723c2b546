//! Reading a small body before its response is returned.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Response, header};
use http_body::Body;
use tokio::time::{Instant, Sleep};

use crate::{
    Outcome, Rejection,
    call::route::{self, Withheld},
    http::{
        AutoClassifier, RequestHead,
        ahead::{Ahead, Read},
        body_limits::BodyLimits,
        replay::policy::is_safe_everywhere,
        reporters::BodyOwner,
    },
    telemetry::{CallOutcome, Meter},
};

pub(super) type Select = dyn Fn(RequestHead<'_>) -> bool + Send + Sync;

/// The media types of streams, whose readers want each frame at once.
const STREAMS: [&str; 4] = [
    "application/json-seq",
    "application/x-ndjson",
    "multipart/x-mixed-replace",
    "text/event-stream",
];

/// The choice of the bodies that are read before their responses are returned.
#[derive(Clone)]
pub(super) struct Buffer {
    pub(super) most: usize,
    /// Selects the requests instead of [`is_safe_everywhere`].
    pub(super) select: Option<Arc<Select>>,
}

impl Buffer {
    pub(super) fn selects<B>(&self, request: &Request<B>) -> bool {
        let head = RequestHead::from(request);
        match &self.select {
            Some(select) => select(head),
            None => is_safe_everywhere(head),
        }
    }

    /// Returns whether the response to a selected request may be read.
    ///
    /// A response that has failed is retried without its body.
    pub(super) fn takes<B: Body>(
        &self,
        response: &Response<B>,
        classifier: &AutoClassifier,
    ) -> bool {
        let most = self.most as u64;
        let headers = response.headers();
        classifier.http_head(response.status(), headers) == Outcome::Success
            && response.body().size_hint().lower() <= most
            && content_length(headers).is_none_or(|length| length <= most)
            && !is_stream(headers)
    }
}

/// Returns the announced length, which a wrapper of the body may not know.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn is_stream(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = value.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
    STREAMS.iter().any(|stream| essence.eq_ignore_ascii_case(stream))
}

/// A response whose body is being read.
pub(super) struct Reading<B: Body> {
    response: Response<Pin<Box<Ahead<B>>>>,
    most: usize,
    limits: BodyLimits,
    waiting_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    measured: Measured,
    /// The call to an endpoint. It ends when the layers above get the response.
    withheld: Withheld,
}

impl<B: Body> Reading<B> {
    pub(super) fn new(
        response: Response<B>,
        most: usize,
        limits: BodyLimits,
        meter: Option<&Arc<Meter>>,
    ) -> Self {
        let response = response.map(|body| Box::pin(Ahead::new(body)));
        let measured = Measured(meter.map(|meter| (Arc::clone(meter), Instant::now())));
        let withheld = route::withhold();
        Self { response, most, limits, waiting_since: None, timer: None, measured, withheld }
    }

    /// Reads until the body has ended, has failed or is too long, or until a read waits too long.
    pub(super) fn poll(
        &mut self,
        owner: &dyn BodyOwner,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Read, Rejection>> {
        loop {
            match self.response.body_mut().as_mut().poll_read(cx, self.most) {
                Poll::Ready(None) => self.waiting_since = None,
                Poll::Ready(Some(read)) => {
                    match read {
                        Read::Whole => self.measured.end(CallOutcome::Success),
                        Read::Failed => self.measured.end(CallOutcome::Failure),
                        Read::TooLong => {}
                    }
                    return Poll::Ready(Ok(read));
                }
                Poll::Pending => {
                    let reached = self.limits.poll(&mut self.waiting_since, &mut self.timer, cx);
                    return match reached {
                        None => Poll::Pending,
                        Some(reached) => {
                            self.measured.end(CallOutcome::Failure);
                            Poll::Ready(Err(self.limits.late(reached, owner)))
                        }
                    };
                }
            }
        }
    }

    pub(super) fn into_response(mut self) -> Response<Pin<Box<Ahead<B>>>> {
        // If there is more, it is measured with the body of the response.
        self.measured.0 = None;
        self.withheld.hand_over();
        self.response
    }
}

/// The numbers of a client that is registered, and the instant at which the head arrived.
///
/// Dropping it counts a body whose reader has left.
struct Measured(Option<(Arc<Meter>, Instant)>);

impl Measured {
    fn end(&mut self, outcome: CallOutcome) {
        if let Some((meter, head)) = self.0.take() {
            meter.count_body(outcome, head.elapsed());
        }
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        self.end(CallOutcome::Cancelled);
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("most", &self.most)
            .field("select", &self.select.is_some())
            .finish()
    }
}
