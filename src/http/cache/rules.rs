//! The rules by which a cache keeps HTTP responses.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body::Body;
use tokio::time::Instant;

use super::{
    control::{Directives, directives, varies_by_another},
    key::{HttpKey, HttpProbe, Keys},
    value::{CACHE_STATUS, HttpValue},
};
use crate::{
    ConfigError, Fault, Outcome,
    cache::{CheckedRules, Forwarded, Given, KeepFor, Kept, KeyHasher, Rules, Selected},
    call::timer::poll_timer,
    http::{
        head::ResponseShape,
        read::{FromRead, Read},
        response_body::ResponseBody,
    },
    sealed::Sealed,
};

/// The rules of [`CacheLayer::http`](crate::cache::CacheLayer::http).
#[derive(Clone, Default)]
pub struct HttpRules {
    pub(super) keys: Keys,
    /// The statuses of failures that are kept, and for how long.
    pub(super) negative: Vec<(StatusCode, Duration)>,
    /// The headers that are in each key.
    in_key: Vec<HeaderName>,
    /// The longest body that is kept.
    max_body: usize,
}

impl fmt::Debug for HttpRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpRules")
            .field("more", &self.keys.more)
            .field("negative", &self.negative)
            .finish_non_exhaustive()
    }
}

impl Sealed for HttpRules {}

impl CheckedRules for HttpRules {
    fn check(&mut self, max_entry_bytes: usize) -> Result<(), ConfigError> {
        let is_wrong = |status: &StatusCode| !status.is_client_error() || *status == 429;
        if let Some((status, _)) = self.negative.iter().find(|(status, _)| is_wrong(status)) {
            let rule = "only a 4xx other than 429 says the same to every caller for some time";
            return Err(ConfigError::new("negative", status.as_u16(), rule));
        }
        self.in_key = self.keys.headers();
        self.max_body = max_entry_bytes;
        Ok(())
    }
}

/// The decision whether a response is kept and shared, from its head.
enum Sharing {
    ForOneCaller(Option<&'static str>),
    Shared(KeepFor, Directives),
}

impl HttpRules {
    fn sharing(&self, status: StatusCode, headers: &HeaderMap, outcome: Outcome) -> Sharing {
        let found = directives(headers);
        let is_stream = headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|media| media.as_bytes().starts_with(b"text/event-stream"));
        let is_part = [StatusCode::PARTIAL_CONTENT, StatusCode::NOT_MODIFIED].contains(&status)
            || status.is_informational();
        let has_failed = matches!(outcome, Outcome::Failure(_)) && status.is_server_error();
        if found.is_for_one_caller
            || found.must_not_be_stored && !has_failed
            || is_stream
            || is_part
            || headers.contains_key(header::SET_COOKIE)
        {
            return Sharing::ForOneCaller(None);
        }
        if varies_by_another(headers, &self.in_key) {
            return Sharing::ForOneCaller(Some("vary"));
        }
        Sharing::Shared(self.time(status, outcome, &found), found)
    }

    fn time(&self, status: StatusCode, outcome: Outcome, found: &Directives) -> KeepFor {
        let has_failed = matches!(
            outcome,
            Outcome::Failure(Fault::Transient | Fault::TimedOut | Fault::Overloaded { .. })
        );
        if found.must_be_asked || found.must_not_be_stored || has_failed {
            return KeepFor::Nothing;
        }
        if let Some((_, ttl)) = self.negative.iter().find(|(known, _)| *known == status) {
            return KeepFor::Exactly(found.max_age.map_or(*ttl, |most| most.min(*ttl)));
        }
        // RFC 9110, section 15.1, without those that are failures.
        let is_kept = matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308);
        match found.max_age {
            _ if !is_kept || outcome != Outcome::Success => KeepFor::Nothing,
            Some(most) => KeepFor::AtMost(most),
            None => KeepFor::Ttl,
        }
    }
}

impl<A, B> Rules<Request<A>, Response<ResponseBody<B>>, HttpKey, HttpValue> for HttpRules
where
    A: Body,
    B: Body<Data = Bytes, Error: Send> + Send,
{
    type Probe<'a>
        = HttpProbe<'a>
    where
        Self: 'a,
        Request<A>: 'a;

    fn select<'a>(
        &'a self,
        request: &'a Request<A>,
        hasher: &KeyHasher,
    ) -> Selected<HttpProbe<'a>> {
        self.keys.select(request, hasher)
    }

    fn keep(
        &self,
        response: Response<ResponseBody<B>>,
        outcome: Outcome,
        until: Instant,
    ) -> impl Future<Output = Kept<Response<ResponseBody<B>>, HttpValue>> + Send {
        self.keep_response(response, outcome, until)
    }

    fn replay(&self, value: &HttpValue, given: Given) -> Response<ResponseBody<B>> {
        value.replay(given)
    }

    fn mark(&self, response: &mut Response<ResponseBody<B>>, forwarded: Forwarded) {
        let status = match forwarded {
            Forwarded::Bypass => "buttress; fwd=bypass",
            Forwarded::Miss => "buttress; fwd=uri-miss",
            Forwarded::Stale => "buttress; fwd=stale",
        };
        response.headers_mut().append(CACHE_STATUS, HeaderValue::from_static(status));
    }

    fn key_bytes(&self, key: &HttpKey) -> usize {
        key.bytes()
    }
}

impl HttpRules {
    async fn keep_response<B: Body<Data = Bytes>>(
        &self,
        response: Response<ResponseBody<B>>,
        outcome: Outcome,
        until: Instant,
    ) -> Kept<Response<ResponseBody<B>>, HttpValue> {
        let (head, body) = response.into_parts();
        let (time, found) = match self.sharing(head.status, &head.headers, outcome) {
            Sharing::Shared(time, found) => (time, found),
            Sharing::ForOneCaller(reason) => {
                return Kept::for_one_caller(Response::from_parts(head, body), reason);
            }
        };
        let (hint, most) = (body.size_hint(), self.max_body);
        let is_whole = ResponseShape::Whole.ends_at_head(head.status) || body.is_end_stream();
        if !is_whole && hint.lower() > most as u64 {
            return Kept::for_one_caller(Response::from_parts(head, body), None);
        }
        let keep = |data: &[u8], trailers: Option<&HeaderMap>| {
            HttpValue::new(head.status, head.version, &head.headers, data, trailers)
        };
        if is_whole {
            let shared = keep(&[], None);
            return Kept::shared(Response::from_parts(head, body), shared, time, &found);
        }
        let mut body = Box::pin(body);
        // A body of unknown length may never end. What has arrived with the head is often all.
        // Otherwise, half of the time is left to those who have to ask for themselves.
        let now = Instant::now();
        let half = until.saturating_duration_since(now) / 2;
        let until = hint.upper().map(|_| now + half);
        match arrived(body.as_mut(), most, until).await {
            Read::Whole { data, trailers } => {
                let shared = keep(&data, trailers.as_ref());
                let response = Response::from_parts(head, ResponseBody::whole(data, trailers));
                Kept::shared(response, shared, time, &found)
            }
            Read::TooLong { data, over } => {
                let body = ResponseBody::resumed(data, over, body);
                Kept::for_one_caller(Response::from_parts(head, body), None)
            }
            Read::Broken { data, error } => {
                let body = ResponseBody::broken(data, error);
                Kept::for_one_caller(Response::from_parts(head, body), None)
            }
        }
    }
}

impl<Res> Kept<Res, HttpValue> {
    fn for_one_caller(response: Res, not_kept: Option<&'static str>) -> Self {
        let (shared, time) = (None, KeepFor::Nothing);
        Self { response, shared, time, is_given_stale: false, not_kept }
    }

    fn shared(
        response: Res,
        shared: (HttpValue, usize),
        time: KeepFor,
        found: &Directives,
    ) -> Self {
        let is_given_stale = !found.must_not_be_stale;
        Self { response, shared: Some(shared), time, is_given_stale, not_kept: None }
    }
}

/// Reads what arrives of a body until an instant. Without one, it waits for nothing.
async fn arrived<B: Body<Data = Bytes>>(
    mut body: Pin<&mut B>,
    most: usize,
    until: Option<Instant>,
) -> Read<B::Error> {
    let mut data = BytesMut::new();
    let mut timer = pin!(None);
    loop {
        let polled = poll_fn(|cx| match (body.as_mut().poll_frame(cx), until) {
            (Poll::Pending, Some(until)) => {
                poll_timer(timer.as_mut(), until, cx).map(|()| Poll::Pending)
            }
            (polled, _) => Poll::Ready(polled),
        })
        .await;
        match polled {
            Poll::Pending => return Read::TooLong { data: data.freeze(), over: Bytes::new() },
            Poll::Ready(None) => return Read::Whole { data: data.freeze(), trailers: None },
            Poll::Ready(Some(Err(error))) => return Read::Broken { data: data.freeze(), error },
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(over) if over.len() > most.saturating_sub(data.len()) => {
                    return Read::TooLong { data: data.freeze(), over };
                }
                Ok(piece) => data.extend_from_slice(&piece),
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        let trailers = Some(trailers);
                        return Read::Whole { data: data.freeze(), trailers };
                    }
                }
            },
        }
        // A body that is always ready with an empty frame would otherwise never yield.
        tokio::task::coop::consume_budget().await;
    }
}
