//! What stands next to an HTTP or gRPC client.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderMap, HeaderName, Request, Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;
use tracing::Span;

use super::{
    AutoClassifier, ResponseBody,
    body::BodyOf,
    head::has_failed,
    wire::{self, Code, Pushback},
};
use crate::{
    Attempt, CarryRejection, ConfigError, DeadlineExceeded, Hop,
    call::{clock, completion::AtEnd, deadline},
    stack::{Describe, Edge, Facts, Slot},
    telemetry::{self, field},
};

/// Makes [`Client`]s, which stand innermost, next to an HTTP or gRPC client. See the
/// [module docs](super) for an example.
///
/// It writes the [headers of the hop](super::wire) into each attempt, reads those of the answer, and
/// lets the call end with the body of its response. [`Stack::http`](crate::Stack::http) puts one in
/// its place.
#[derive(Clone)]
pub struct ClientLayer {
    config: Arc<Config>,
}

struct Config {
    classifier: Arc<AutoClassifier>,
    /// The same, unless it judges by the tables: then nothing need be carried to the end of a body.
    at_end: Option<Arc<AutoClassifier>>,
    idle: Option<Duration>,
    body_deadline: bool,
    write: Option<Write>,
    malformed: AtomicU64,
}

/// What a sidecar is told, which tells the server in [`wire::EXPECTED_TIMEOUT`]. It is an order to a
/// router, and therefore never read.
const UPSTREAM_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");

/// Which headers are written.
#[derive(Clone, Copy, Debug)]
enum Write {
    Hop,
    /// Also what a sidecar overwrites the first with.
    HopAndEnvoy,
}

/// 30 s: a peer that has sent nothing for so long has died, or has forgotten us.
const IDLE: Duration = Duration::from_secs(30);

impl Default for ClientLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl ClientLayer {
    /// With the defaults that [`builder`](Self::builder) names.
    pub fn new() -> Self {
        Self::builder().finish()
    }

    /// Settings other than the defaults.
    pub fn builder() -> ClientBuilder {
        ClientBuilder {
            classifier: None,
            idle: Some(IDLE),
            body_deadline: false,
            write: Some(Write::Hop),
        }
    }

    /// How many header lines of answers were malformed, and therefore ignored; an unparseable
    /// `grpc-retry-pushback-ms` is counted too, though it is not ignored.
    pub fn malformed_headers(&self) -> u64 {
        self.config.malformed.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for ClientLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientLayer")
            .field("classifier", &self.config.classifier)
            .field("idle", &self.config.idle)
            .field("body_deadline", &self.config.body_deadline)
            .field("write", &self.config.write)
            .finish_non_exhaustive()
    }
}

/// Settings of a [`ClientLayer`].
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    classifier: Option<AutoClassifier>,
    idle: Option<Duration>,
    body_deadline: bool,
    write: Option<Write>,
}

impl ClientBuilder {
    /// Who judges the answers, for every layer of the stack that has no classifier of its own, and who
    /// judges the end of each response: an [`AutoClassifier`], or one for HTTP or for gRPC.
    pub fn classifier(mut self, classifier: impl Into<AutoClassifier>) -> Self {
        self.classifier = Some(classifier.into());
        self
    }

    /// How long a reader waits for the next frame of a body, longer than zero. The default is 30 s: a
    /// peer that has sent nothing for so long has died, or has forgotten us. Time in which nobody reads
    /// does not count.
    pub fn body_idle(mut self, idle: Duration) -> Self {
        self.idle = Some(idle);
        self
    }

    /// Lets a reader wait for the next frame for ever.
    pub fn without_body_idle(mut self) -> Self {
        self.idle = None;
        self
    }

    /// Applies the deadline that the request was sent under, the attempt's where there is one, to the
    /// last frame of an HTTP body too. The default is not to: a download may take longer than its head.
    /// For gRPC it always applies, since it was told to the server.
    pub fn body_deadline(mut self) -> Self {
        self.body_deadline = true;
        self
    }

    /// Writes `x-envoy-upstream-rq-timeout-ms` too: a sidecar makes of it the
    /// `x-envoy-expected-rq-timeout-ms` that the server sees.
    pub fn for_envoy(mut self) -> Self {
        self.write = Some(Write::HopAndEnvoy);
        self
    }

    /// Writes no headers, for servers that are not to know.
    pub fn without_hop_headers(mut self) -> Self {
        self.write = None;
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// If a reader may not wait at all.
    pub fn build(self) -> Result<ClientLayer, ConfigError> {
        if let Some(idle) = self.idle {
            ConfigError::unless_positive("body_idle", idle)?;
        }
        Ok(self.finish())
    }

    fn finish(self) -> ClientLayer {
        let at_end = self.classifier.map(Arc::new);
        let config = Config {
            classifier: at_end.clone().unwrap_or_default(),
            at_end,
            idle: self.idle,
            body_deadline: self.body_deadline,
            write: self.write,
            malformed: AtomicU64::new(0),
        };
        ClientLayer { config: Arc::new(config) }
    }
}

impl<S> Layer<S> for ClientLayer {
    type Service = Client<S>;

    fn layer(&self, inner: S) -> Client<S> {
        Client { inner, config: Arc::clone(&self.config) }
    }
}

impl<S, C, M> Slot<S, C, M> for ClientLayer {
    type Service = Client<S>;

    fn wrap(&self, inner: S, _: &Arc<C>) -> Client<S> {
        self.layer(inner)
    }
}

impl Edge for ClientLayer {
    type Completion = AtEnd;
    type Classifier = AutoClassifier;

    fn classifier(&self) -> Arc<AutoClassifier> {
        Arc::clone(&self.config.classifier)
    }
}

impl Describe for ClientLayer {
    fn describe(&self, facts: &mut Facts) {
        facts.body_idle(self.config.idle);
    }
}

/// Speaks the hop protocol with a server. Made by [`ClientLayer`].
#[derive(Clone)]
pub struct Client<S> {
    inner: S,
    config: Arc<Config>,
}

accessors!(Client<S>);

impl<S: fmt::Debug> fmt::Debug for Client<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, B, R> Service<Request<B>> for Client<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: CarryRejection,
    R: Body,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ClientFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let began = clock::now();
        let grpc = wire::is_grpc(request.headers());
        let in_time = match self.config.write {
            Some(write) => write.headers(request.headers_mut(), grpc, began),
            None => true,
        };
        let call = BodyOf::call(request.method(), began);
        let future = in_time.then(|| self.inner.call(request));
        ClientFuture { future, config: Arc::clone(&self.config), call, refused: !in_time }
    }
}

impl Write {
    /// Writes how much time is left and which attempt this is; `false` if there is no time.
    fn headers(self, headers: &mut HeaderMap, grpc: bool, now: Instant) -> bool {
        let Some(left) = time_left(headers, grpc, now) else {
            write_attempt(headers, grpc);
            return true;
        };
        let value = if grpc { wire::grpc_timeout_value(left) } else { wire::millis_value(left) };
        let Some(value) = value else { return false };
        if grpc {
            headers.insert(wire::GRPC_TIMEOUT, value);
        } else {
            if let Self::HopAndEnvoy = self {
                headers.insert(UPSTREAM_TIMEOUT, value.clone());
            }
            headers.insert(wire::EXPECTED_TIMEOUT, value);
        }
        write_attempt(headers, grpc);
        true
    }
}

/// The time until the ambient deadline, or until that which the caller wrote into the request, if it is
/// the nearer one; `None` without an ambient deadline.
fn time_left(headers: &HeaderMap, grpc: bool, now: Instant) -> Option<Duration> {
    let left = deadline::deadline()?.saturating_duration_since(now);
    let asked = if grpc { wire::grpc_timeout(headers) } else { wire::expected_timeout(headers) };
    Some(asked.value.map_or(left, |asked| asked.min(left)))
}

fn write_attempt(headers: &mut HeaderMap, grpc: bool) {
    // The number that came with a request which is being served is not that of ours.
    let Some(attempt) = Attempt::current().filter(Attempt::is_own) else { return };
    let name = if grpc { wire::PREVIOUS_ATTEMPTS } else { wire::ATTEMPT_COUNT };
    let number = attempt.number();
    if number == 1 {
        headers.remove(name);
        return;
    }
    Span::current().record(field::RESEND_COUNT, number - 1);
    headers.insert(name, wire::count_value(if grpc { number - 1 } else { number }));
}

pin_project! {
    /// The future of a [`Client`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ClientFuture<F> {
        // `None` when the call was refused, and when it has ended.
        #[pin]
        future: Option<F>,
        config: Arc<Config>,
        call: BodyOf,
        refused: bool,
    }
}

impl<F, R, E> Future for ClientFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body,
    E: CarryRejection,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(future) = this.future.as_mut().as_pin_mut() else {
            return Poll::Ready(Err(refuse(this.refused)));
        };
        let result = ready!(future.poll(cx));
        this.future.set(None);
        Poll::Ready(result.map(|response| {
            let grpc = wire::is_grpc(response.headers());
            this.config.read(&response, grpc);
            let config = this.config;
            let at_end = config.at_end.clone();
            this.call.answered(response, grpc, config.idle, config.body_deadline, at_end)
        }))
    }
}

impl Config {
    /// Notes what an answer says of retrying, for the answer to the request that is being served: also
    /// where no retry layer stands between the two.
    fn read<R>(&self, response: &Response<R>, grpc: bool) {
        let headers = response.headers();
        let mut malformed = 0;
        let stop = if grpc && wire::grpc_status(headers) == Some(Code::Ok) {
            false
        } else if grpc {
            let pushback = wire::pushback(headers);
            malformed += u32::from(pushback == Pushback::Malformed);
            pushback.stops()
        } else {
            let failed = has_failed(response.status());
            if failed || response.status() == StatusCode::CONFLICT {
                malformed += wire::retry_after(headers).malformed;
            }
            failed && wire::should_not_retry(headers)
        };
        if malformed > 0 {
            self.malformed.fetch_add(malformed.into(), Ordering::Relaxed);
        }
        if stop {
            Hop::report_stop();
        }
    }
}

// Out of line, so that the path of a call which goes well stays short.
#[cold]
fn refuse<E: CarryRejection>(refused: &mut bool) -> E {
    assert!(*refused, "a response future was polled after it had ended");
    *refused = false;
    telemetry::refuse(DeadlineExceeded::by(None))
}

impl<F> fmt::Debug for ClientFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientFuture").finish_non_exhaustive()
    }
}
