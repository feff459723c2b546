use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tower_layer::Layer;

use super::{
    config::{Config, Write},
    service::HttpClient,
};
use crate::{ConfigError, http::AutoClassifier};

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
        Self::builder().finish()
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

impl fmt::Debug for HttpClientLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClientLayer")
            .field("classifier", &self.config.classifier)
            .field("idle", &self.config.idle)
            .field("body_deadline", &self.config.body_deadline)
            .field("write", &self.config.write)
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
    for_envoy: bool,
    without_hop_headers: bool,
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

    /// Builds the layer.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] if [`body_idle`](Self::body_idle) is zero, or if two settings contradict
    /// each other.
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
        Ok(self.finish())
    }

    fn finish(self) -> HttpClientLayer {
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
            malformed: AtomicU64::new(0),
        };
        HttpClientLayer { config: Arc::new(config) }
    }
}

impl HttpClientLayer {
    pub(super) fn config(&self) -> &Config {
        &self.config
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
