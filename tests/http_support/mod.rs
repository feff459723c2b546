//! An in-process HTTP service, and helpers of the HTTP tests.
#![allow(dead_code, reason = "no test file needs all of it")]

use std::{
    future::{Future, pending},
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use buttress::retry::{Backoff, Jitter, ReplayFn, RetryBuilder, RetryLayer, replay_fn};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use tokio::time::{Instant, sleep};
use tower::Service;

pub(crate) type Body = Full<Bytes>;
pub(crate) type Answer = Response<Body>;

type Answering = Pin<Box<dyn Future<Output = Result<Answer, io::Error>> + Send>>;

/// A service that records its requests and their times.
#[derive(Clone)]
pub(crate) struct Upstream {
    answer: Arc<dyn Fn(usize) -> Answering + Send + Sync>,
    seen: Arc<Mutex<Vec<Sent>>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) at: Instant,
    pub(crate) headers: HeaderMap,
}

impl Upstream {
    /// Creates a service with this response. `answer` gets the number of earlier requests.
    pub(crate) fn new<F, A>(answer: F) -> Self
    where
        F: Fn(usize) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Answer, io::Error>> + Send + 'static,
    {
        let answer = move |before| Box::pin(answer(before)) as Answering;
        Self { answer: Arc::new(answer), seen: Arc::default() }
    }

    /// Creates a service that gives these responses in turn, and then repeats the last one.
    pub(crate) fn saying(answers: impl IntoIterator<Item = Answer>) -> Self {
        let answers: Vec<_> = answers.into_iter().collect();
        Self::new(move |before| {
            let answer = answers[before.min(answers.len() - 1)].clone();
            async { Ok(answer) }
        })
    }

    /// Creates a service that takes this long for each response.
    pub(crate) fn slow(time: Duration) -> Self {
        Self::new(move |_| async move {
            sleep(time).await;
            Ok(Answer::default())
        })
    }

    pub(crate) fn hanging() -> Self {
        Self::new(|_| pending())
    }

    pub(crate) fn calls(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub(crate) fn seen(&self) -> Vec<Sent> {
        self.seen.lock().unwrap().clone()
    }

    /// Returns the lines of a header in each request.
    pub(crate) fn lines(&self, name: &str) -> Vec<Vec<String>> {
        self.seen().iter().map(|sent| lines(&sent.headers, name)).collect()
    }

    /// Returns the time between each request and the next.
    pub(crate) fn pauses(&self) -> Vec<Duration> {
        self.seen().windows(2).map(|pair| pair[1].at - pair[0].at).collect()
    }
}

impl Service<Request<Body>> for Upstream {
    type Response = Answer;
    type Error = io::Error;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answering {
        let mut seen = self.seen.lock().unwrap();
        let before = seen.len();
        seen.push(Sent { at: Instant::now(), headers: request.headers().clone() });
        (self.answer)(before)
    }
}

pub(crate) fn lines(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers.get_all(name).iter().map(|line| line.to_str().unwrap().to_owned()).collect()
}

/// The protocol of a request and its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http,
    Grpc,
}

pub(crate) const BOTH: [Protocol; 2] = [Protocol::Http, Protocol::Grpc];

impl Protocol {
    pub(crate) fn request(self, headers: &[(&str, &str)]) -> Request<Body> {
        let mut request = Request::new(Body::default());
        if self == Self::Grpc {
            put(request.headers_mut(), "content-type", "application/grpc");
        }
        for (name, value) in headers {
            put(request.headers_mut(), name, value);
        }
        request
    }

    /// Returns the header with the remaining time, for a number of milliseconds.
    pub(crate) fn time_left(self, millis: u64) -> (&'static str, String) {
        match self {
            Self::Http => ("x-envoy-expected-rq-timeout-ms", millis.to_string()),
            Self::Grpc => ("grpc-timeout", format!("{millis}m")),
        }
    }
}

pub(crate) fn put(headers: &mut HeaderMap, name: &str, value: impl AsRef<[u8]>) {
    let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
    headers.append(name, HeaderValue::from_bytes(value.as_ref()).unwrap());
}

pub(crate) fn answer(status: u16, headers: &[(&str, &str)]) -> Answer {
    let mut answer = Answer::default();
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        put(answer.headers_mut(), name, value);
    }
    answer
}

/// Creates a gRPC response that consists of trailers only.
pub(crate) fn trailers_only(code: u8, headers: &[(&str, &str)]) -> Answer {
    let mut answer = answer(200, headers);
    put(answer.headers_mut(), "content-type", "application/grpc");
    put(answer.headers_mut(), "grpc-status", code.to_string());
    answer
}

pub(crate) const PAUSE: Duration = Duration::from_millis(100);

/// A policy that replays every request, even a POST.
pub(crate) type ReplayAll = ReplayFn<fn(&Request<Body>) -> Option<Request<Body>>>;

/// Returns a retry with a constant pause, without a budget.
pub(crate) fn retry(retries: u32) -> RetryBuilder<ReplayAll> {
    let backoff = Backoff::constant(PAUSE).jitter(Jitter::None).build().unwrap();
    let all: fn(&Request<Body>) -> Option<Request<Body>> = |request| Some(request.clone());
    RetryLayer::builder(replay_fn(all)).retries(retries).backoff(backoff).without_budget()
}

/// Runs a future on its own paused clock, for tests that are not async.
pub(crate) fn on_paused_clock<F: Future>(future: F) -> F::Output {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().unwrap().block_on(future)
}
