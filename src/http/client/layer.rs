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
    service::Client,
};
use crate::{
    ConfigError,
    call::completion::AtEnd,
    http::AutoClassifier,
    stack::{Describe, Edge, Facts, Slot},
};

/// Makes [`Client`]s, which stand innermost, next to an HTTP or gRPC client. See the
/// [module docs](crate::http) for an example.
///
/// It writes the [headers of the hop](crate::http::wire) into each attempt, reads those of the
/// answer, and lets the call end with the body of its response. [`Stack::http`](crate::Stack::http)
/// puts one in its place.
#[derive(Clone)]
pub struct ClientLayer {
    config: Arc<Config>,
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
        Client::new(inner, Arc::clone(&self.config))
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
