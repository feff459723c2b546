//! The rules by which a cache keeps HTTP responses.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header, response::Parts,
};
use http_body::Body;
use tokio::time::{Instant, Sleep};

use super::{
    control::{Directives, directives, varies_by_another},
    key::{HttpKey, HttpProbe, Keys},
    value::{CACHE_STATUS, HttpValue},
};
use crate::{
    ConfigError, Fault, Outcome,
    cache::{CheckedRules, Forwarded, Given, KeepFor, KeyHasher, Rules, Selected, Shareable},
    call::{
        degraded::{Degraded, DegradedBy},
        timer::poll_timer,
    },
    http::{
        read::{self, BodyAccount},
        response_body::ResponseBody,
    },
    keep::Kept,
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
    /// `is_given_stale` is `true` if it may be given when it is no longer fresh.
    Shared {
        time: KeepFor,
        is_given_stale: bool,
    },
}

impl HttpRules {
    fn sharing(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        outcome: Outcome,
        took: Duration,
    ) -> Sharing {
        let mut found = directives(headers);
        // RFC 9111, section 4.2.3: the response has been on its way for this time.
        found.max_age = found.max_age.map(|most| most.saturating_sub(took));
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
        let negative = self.negative.iter().find(|(known, _)| *known == status);
        let negative = negative.map(|(_, ttl)| *ttl);
        Sharing::Shared {
            time: time(negative, status, outcome, &found),
            // A negative response has a time of its own, after which it is not given.
            is_given_stale: negative.is_none() && !found.must_not_be_stale,
        }
    }
}

/// Returns how long a response is kept. `negative` is the time that is set for its status.
fn time(
    negative: Option<Duration>,
    status: StatusCode,
    outcome: Outcome,
    found: &Directives,
) -> KeepFor {
    let has_failed = matches!(
        outcome,
        Outcome::Failure(Fault::Transient | Fault::TimedOut | Fault::Overloaded { .. })
    );
    if found.must_be_asked || found.must_not_be_stored || has_failed {
        return KeepFor::Nothing;
    }
    if let Some(ttl) = negative {
        return KeepFor::Exactly(found.max_age.map_or(ttl, |most| most.min(ttl)));
    }
    // RFC 9110, section 15.1, without those that are failures.
    let is_kept = matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308);
    match found.max_age {
        _ if !is_kept || outcome != Outcome::Success => KeepFor::Nothing,
        Some(most) => KeepFor::AtMost(most),
        None => KeepFor::Ttl,
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
        took: Duration,
        until: Instant,
    ) -> impl Future<Output = Shareable<Response<ResponseBody<B>>, HttpValue>> + Send {
        self.keep_response(response, outcome, took, until)
    }

    fn replay(&self, value: &HttpValue, given: Given) -> Response<ResponseBody<B>> {
        value.replay(given)
    }

    fn mark(&self, response: &mut Response<ResponseBody<B>>, forwarded: Forwarded) {
        let status = match forwarded {
            Forwarded::Bypass => "buttress; fwd=bypass",
            Forwarded::Method => "buttress; fwd=method",
            Forwarded::Miss => "buttress; fwd=uri-miss",
            Forwarded::Stale => "buttress; fwd=stale",
        };
        response.headers_mut().append(CACHE_STATUS, HeaderValue::from_static(status));
    }

    fn degraded(&self, response: &Response<ResponseBody<B>>) -> Option<DegradedBy> {
        response.extensions().get().map(Degraded::source)
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
        took: Duration,
        until: Instant,
    ) -> Shareable<Response<ResponseBody<B>>, HttpValue> {
        let sharing = self.sharing(response.status(), response.headers(), outcome, took);
        let (time, is_given_stale) = match sharing {
            Sharing::Shared { time, is_given_stale } => (time, is_given_stale),
            Sharing::ForOneCaller(not_kept) => {
                let (kept, time) = (Kept::not_kept(response), KeepFor::Nothing);
                return Shareable { kept, time, is_given_stale: false, not_kept };
            }
        };
        // A body of unknown length may never end. What has arrived with the head is often all.
        // Otherwise, half of the time is left to those who have to ask for themselves.
        let now = Instant::now();
        let half = until.saturating_duration_since(now) / 2;
        let until = response.body().size_hint().upper().map(|_| now + half);
        let mut in_time = InTime { until, timer: pin!(None) };
        let take = |head: &Parts, data: &[u8], trailers: Option<&HeaderMap>| {
            Some(HttpValue::new(head, took, data, trailers))
        };
        let kept = read::keep(response, self.max_body, &mut in_time, take).await;
        Shareable { kept, time, is_given_stale, not_kept: None }
    }
}

/// Ends the reading of a body at an instant. Without one, it waits for nothing.
struct InTime<'a> {
    until: Option<Instant>,
    timer: Pin<&'a mut Option<Sleep>>,
}

/// The memory of bodies is bounded by the number of shared calls.
impl BodyAccount for InTime<'_> {
    type Error = Infallible;

    fn grow(&mut self, _: usize, _: usize) -> Result<(), Infallible> {
        Ok(())
    }

    fn park(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Infallible> {
        Ok(match self.until {
            Some(until) => poll_timer(self.timer.as_mut(), until, cx),
            None => Poll::Ready(()),
        })
    }
}
