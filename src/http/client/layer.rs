use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::HeaderMap;
use tower_layer::Layer;

use super::{
    buffer::{Buffer, Select},
    config::{Config, OnSend, Write},
    service::HttpClient,
};
use crate::{
    ConfigError,
    http::{
        AutoClassifier, RequestHead,
        checks::{Once, unless_room},
        reporters::HttpReporters,
    },
    telemetry::{Registry, Reporters},
};

/// A layer that connects a stack with an HTTP or gRPC client.
///
/// See the [module docs](crate::http) for an example.
///
/// It must be the innermost layer. It writes the [headers of the hop](crate::http::wire) into each
/// attempt, reads the headers of the response, and makes the call end with the body of the
/// response. [`Stack::http`](crate::Stack::http) adds it in the right place.
#[derive(Clone)]
pub struct HttpClientLayer {
    config: Arc<Config>,
}

/// The default of `body_idle`. A peer that has sent nothing for 30 s is probably dead.
const IDLE: Duration = Duration::from_secs(30);

impl Default for HttpClientLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl HttpClientLayer {
    /// Creates a layer with the defaults of [`builder`](Self::builder).
    pub fn new() -> Self {
        Self::builder().finish(None, None)
    }

    /// Returns a builder, to change the defaults.
    pub fn builder() -> HttpClientBuilder {
        HttpClientBuilder::default()
    }

    /// Returns a layer with the same settings and a count of its own.
    pub(crate) fn fresh(&self) -> Self {
        Self { config: Arc::new(self.config.fresh()) }
    }

    /// Returns the number of malformed header lines in responses.
    ///
    /// They are the `Retry-After` lines of a 409, a 429 or a 5xx, and the `grpc-retry-pushback-ms`
    /// of a gRPC response that is not `OK`. A malformed `Retry-After` is ignored. A malformed
    /// `grpc-retry-pushback-ms` forbids a retry.
    pub fn malformed_headers(&self) -> u64 {
        self.config.malformed.load(Ordering::Relaxed)
    }
}

impl HttpClientLayer {
    /// Registers the layer, which counts from now on. A registered stack registers it too.
    ///
    /// Default: none. Nothing is counted then. The layer stays in the first registry.
    ///
    /// It counts its rejections and those of its bodies. It measures the time from the head of a
    /// response to the end of its body. A body that is empty, or that is not sent, as after a HEAD
    /// request, is not measured. If [`body_buffer`](HttpClientBuilder::body_buffer) has read the
    /// beginning of a body that is too long, the time begins when its reader gets the response.
    pub fn register(self, registry: &Registry) -> Self {
        self.config.reporters.register(registry);
        self
    }
}

impl fmt::Debug for HttpClientLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClientLayer")
            .field("classifier", &self.config.classifier)
            .field("idle", &self.config.idle)
            .field("body_deadline", &self.config.body_deadline)
            .field("write", &self.config.write)
            .field("buffer", &self.config.buffer)
            .field("on_send", &self.config.on_send.is_some())
            .finish_non_exhaustive()
    }
}

/// A builder of an [`HttpClientLayer`].
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until it is built"]
pub struct HttpClientBuilder {
    classifier: Option<AutoClassifier>,
    body_idle: Option<Duration>,
    without_body_idle: bool,
    body_deadline: bool,
    body_buffer: Option<usize>,
    body_buffer_for: Once<Arc<Select>>,
    for_envoy: bool,
    without_hop_headers: bool,
    on_send: Once<Arc<OnSend>>,
}

impl HttpClientBuilder {
    /// Sets the classifier of responses.
    ///
    /// Default: `AutoClassifier::new()`.
    ///
    /// It may be an [`AutoClassifier`], an [`HttpClassifier`](crate::http::HttpClassifier) or a
    /// [`GrpcClassifier`](crate::http::GrpcClassifier). Every layer of the stack without its own
    /// classifier uses it. It also classifies the trailers of gRPC responses.
    pub fn classify(mut self, classifier: impl Into<AutoClassifier>) -> Self {
        self.classifier = Some(classifier.into());
        self
    }

    /// Sets the maximum time that a read waits for the next frame of a response body.
    ///
    /// Default: `30 s`.
    ///
    /// A peer that has sent nothing for 30 s is probably dead, or has lost the call. After this
    /// time the body ends with a [`BodyError`](crate::http::BodyError). The time between two reads
    /// does not count.
    ///
    /// [`build`](Self::build) rejects zero, and any time together with
    /// [`without_body_idle`](Self::without_body_idle). `Duration::MAX` is no limit.
    pub fn body_idle(mut self, idle: Duration) -> Self {
        self.body_idle = Some(idle);
        self
    }

    /// Removes the limit of [`body_idle`](Self::body_idle), for streams that may be silent.
    ///
    /// Default: off.
    pub fn without_body_idle(mut self) -> Self {
        self.without_body_idle = true;
        self
    }

    /// Applies the deadline of the request to the last frame of an HTTP body too.
    ///
    /// Default: off.
    ///
    /// Without it, the deadline covers only the head, because a download may take longer. For gRPC
    /// it always covers the last frame, because the server was told the deadline.
    ///
    /// With an attempt timeout and a total timeout, the earlier deadline counts. In most
    /// calls it is that of the attempt.
    ///
    /// Set it for responses that are read at once, such as JSON.
    pub fn body_deadline(mut self) -> Self {
        self.body_deadline = true;
        self
    }

    /// Sets the maximum size of a body that is read before its response is returned.
    ///
    /// Default: off.
    ///
    /// Without it, a call is a success from its head on. If its body breaks off, only the reader of
    /// the body sees it, and nothing retries the call.
    ///
    /// With it, an attempt whose body fails while it is read is a
    /// [transient](crate::Fault::Transient) failure, even if the classifier takes its head for a
    /// success. The timeouts and [`body_idle`](Self::body_idle) apply while a body is read. If the
    /// attempt is not retried, the response is returned, and its body ends with the error of the
    /// first reading.
    ///
    /// It applies to requests that are safe to repeat on any server: GET, HEAD, OPTIONS, TRACE, an
    /// unconditional PUT or DELETE, and those with the extension
    /// [`ClientKey`](crate::http::ClientKey). [`body_buffer_for_fn`](Self::body_buffer_for_fn)
    /// selects others. These responses are returned at once, as without this setting:
    ///
    /// - A gRPC response. See [`FirstFrameLayer`](crate::http::grpc::FirstFrameLayer).
    /// - A response whose length is announced and over `max_bytes`. If the length is not announced,
    ///   the response is returned when more than `max_bytes` have been read. Its body begins with
    ///   that part.
    /// - A stream: `text/event-stream`, `multipart/x-mixed-replace`, `application/x-ndjson` or
    ///   `application/json-seq`. Any other body that arrives bit by bit is held back until it ends
    ///   or is too long, or until a timeout ends the attempt. Exclude the requests of such bodies.
    /// - A response whose head is no success for the [classifier](Self::classify) of this layer,
    ///   such as a 503, or a 409 with a `Retry-After`.
    ///
    /// Each response takes up to `max_bytes` of memory, plus one frame, until its body is read. A
    /// body of small frames takes up to twice that, because a frame takes memory itself. At most
    /// one frame is read for each 256 bytes of `max_bytes`, plus 16. A bulkhead bounds the number
    /// of bodies that are being read. A response whose body was read to its end holds no permit, so
    /// its caller bounds how many of them it keeps.
    ///
    /// A DELETE whose body breaks off may be repeated after it was a success, and then gets a 404.
    ///
    /// A retry layer outside of a stack must be in an [`UntilEnd`](crate::http::UntilEnd).
    ///
    /// [`build`](Self::build) rejects zero.
    ///
    /// ```
    /// use buttress::{
    ///     Stack,
    ///     http::{HttpClientLayer, ReplaySafe},
    /// };
    ///
    /// let http = HttpClientLayer::builder().body_buffer(64 << 10).build()?;
    /// let stack = Stack::standard(ReplaySafe::new()).http_client(http);
    /// # let _ = stack;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn body_buffer(mut self, max_bytes: usize) -> Self {
        self.body_buffer = Some(max_bytes);
        self
    }

    /// Sets the requests whose responses [`body_buffer`](Self::body_buffer) reads.
    ///
    /// Default: none. The requests are those that are safe to repeat on any server.
    ///
    /// The function replaces that choice, and returns `true` for such a request. It does not make
    /// the request safe to repeat. [`ReplaySafe`](crate::http::ReplaySafe) decides that.
    ///
    /// [`build`](Self::build) rejects a second function, and a function without `body_buffer`.
    pub fn body_buffer_for_fn<F>(mut self, select: F) -> Self
    where
        F: Fn(RequestHead<'_>) -> bool + Send + Sync + 'static,
    {
        self.body_buffer_for.set(Arc::new(select));
        self
    }

    /// Adds the header `x-envoy-upstream-rq-timeout-ms` to HTTP requests.
    ///
    /// Default: off.
    ///
    /// Use it only if an Envoy sidecar sends the requests. The sidecar derives from this header the
    /// `x-envoy-expected-rq-timeout-ms` that the server receives.
    ///
    /// [`build`](Self::build) rejects it together with
    /// [`without_hop_headers`](Self::without_hop_headers).
    pub fn for_envoy(mut self) -> Self {
        self.for_envoy = true;
        self
    }

    /// Omits the [headers of the hop](crate::http::wire), for servers that must not receive them.
    ///
    /// These are often servers of third parties.
    ///
    /// Default: off.
    ///
    /// The headers of responses are still read.
    pub fn without_hop_headers(mut self) -> Self {
        self.without_hop_headers = true;
        self
    }

    /// Sets a function that can change the headers of each attempt.
    ///
    /// Default: none.
    ///
    /// It runs before each attempt is sent, in the span `attempt` of a retry. An attempt that is
    /// not sent, because its time is over, does not run it. The [headers of the
    /// hop](crate::http::wire) are already written. Use it to pass the trace context on, so that
    /// the spans of the server are in those of the attempt:
    ///
    /// ```
    /// use buttress::{
    ///     Stack,
    ///     http::{HttpClientLayer, ReplaySafe},
    /// };
    /// # fn traceparent() -> http::HeaderValue {
    /// #     let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    /// #     format!("00-{trace}-{span}-01").parse().unwrap()
    /// # }
    ///
    /// let http = HttpClientLayer::builder().on_send_fn(|headers| {
    ///     headers.insert("traceparent", traceparent());
    /// });
    /// let stack = Stack::standard(ReplaySafe::new()).http_client(http.build()?);
    /// # let _ = stack;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    ///
    /// With OpenTelemetry, a propagator writes the header, as in the example `traceparent` of this
    /// repository (`cargo run -p ecosystem --example traceparent`). If the function panics, so does
    /// the call, which counts as a failure for a breaker.
    ///
    /// [`build`](Self::build) rejects a second function.
    pub fn on_send_fn<F>(mut self, f: F) -> Self
    where
        F: Fn(&mut HeaderMap) + Send + Sync + 'static,
    {
        self.on_send.set(Arc::new(f));
        self
    }

    /// Builds the layer.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] if [`body_idle`](Self::body_idle) or [`body_buffer`](Self::body_buffer) is
    /// zero, if a function was set twice, or if two settings contradict each other.
    pub fn build(self) -> Result<HttpClientLayer, ConfigError> {
        if let Some(idle) = self.body_idle {
            ConfigError::require_positive("body_idle", idle)?;
            if self.without_body_idle {
                let rule = "`without_body_idle` removes this limit";
                return Err(ConfigError::new("body_idle", idle, rule));
            }
        }
        if self.for_envoy && self.without_hop_headers {
            let rule = "`without_hop_headers` writes no headers";
            return Err(ConfigError::new("for_envoy", format_args!("set"), rule));
        }
        let select = self.body_buffer_for.clone().get("body_buffer_for_fn")?;
        if let Some(most) = self.body_buffer {
            unless_room("body_buffer", most)?;
        } else if select.is_some() {
            let rule = "without `body_buffer`, no body is read";
            return Err(ConfigError::new("body_buffer_for_fn", format_args!("set"), rule));
        }
        let on_send = self.on_send.clone().get("on_send_fn")?;
        Ok(self.finish(select, on_send))
    }

    fn finish(self, select: Option<Arc<Select>>, on_send: Option<Arc<OnSend>>) -> HttpClientLayer {
        let at_end = self.classifier.map(Arc::new);
        let idle = (!self.without_body_idle).then(|| self.body_idle.unwrap_or(IDLE));
        let write = match (self.without_hop_headers, self.for_envoy) {
            (true, _) => None,
            (false, false) => Some(Write::Hop),
            (false, true) => Some(Write::HopAndEnvoy),
        };
        let config = Config {
            classifier: at_end.clone().unwrap_or_default(),
            at_end,
            idle,
            body_deadline: self.body_deadline,
            write,
            buffer: self.body_buffer.map(|most| Buffer { most, select }),
            malformed: AtomicU64::new(0),
            on_send,
            reporters: HttpReporters::of_client(),
        };
        HttpClientLayer { config: Arc::new(config) }
    }
}

impl HttpClientLayer {
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Takes the names and the registry of a stack.
    pub(in crate::http) fn inherit(&self, stack: &Reporters) {
        self.config.reporters.inherit(stack);
    }

    pub(in crate::http) fn shared_classifier(&self) -> Arc<AutoClassifier> {
        Arc::clone(&self.config.classifier)
    }
}

impl<S> Layer<S> for HttpClientLayer {
    type Service = HttpClient<S>;

    fn layer(&self, inner: S) -> HttpClient<S> {
        HttpClient::new(inner, Arc::clone(&self.config))
    }
}
