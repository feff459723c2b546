//! The service.

use std::{
    convert::Infallible,
    error::Error as StdError,
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use buttress::telemetry::Registry;
use http::{Method, Request, Response, StatusCode, Uri, header::ACCEPT, request::Parts};
use http_body::Body;
use tower_service::Service;

use crate::{
    answer::{Answer, HTML, JSON},
    body::AdminBody,
    change::{Actor, check, read},
    events::Events,
    hosts::Hosts,
    page,
    readings::Readings,
    snapshot::Snapshot,
    state::State,
};

/// A service with a live page, metrics and switches for the layers of a registry.
///
/// | request | response |
/// |---|---|
/// | `GET /` | the page |
/// | `GET /state.json` | the numbers and the diagnosis of each dependency, and the last events |
/// | `GET /metrics` | all numbers, for Prometheus |
/// | `POST /control` | changes a layer, if [`allow_changes`](Self::allow_changes) allows it |
///
/// Clones share their state. Its error is [`Infallible`], so each router takes it. See the
/// [crate docs](crate) for routers and for who may reach it.
#[derive(Clone)]
pub struct Admin {
    shared: Arc<Shared>,
    settings: Arc<Settings>,
}

struct Shared {
    registry: Registry,
    readings: Readings,
    events: Arc<Events>,
}

#[derive(Clone, Default)]
struct Settings {
    prefix: String,
    hosts: Hosts,
    allows: Option<Arc<Allows>>,
}

type Allows = dyn Fn(&Parts) -> Option<Actor> + Send + Sync;

impl Admin {
    /// Creates the service for all layers of a registry.
    ///
    /// It observes the events of the registry from now on.
    pub fn new(registry: &Registry) -> Self {
        let (registry, events) = (registry.clone(), Events::of(registry));
        let shared = Shared { registry, readings: Readings::default(), events };
        Self { shared: Arc::new(shared), settings: Arc::default() }
    }

    /// Sets the path of the page.
    ///
    /// Default: `/`.
    ///
    /// It is needed where the router does not remove the path from the request. Requests from which
    /// a router has removed it are served too. Where no router removes it, `/state.json` is
    /// therefore served as well as `/buttress/state.json`, and a rule of a proxy for the path alone
    /// keeps nobody out.
    ///
    /// # Panics
    ///
    /// Panics if the path does not begin with `/`.
    pub fn at(self, path: impl AsRef<str>) -> Self {
        let path = path.as_ref();
        assert!(path.starts_with('/'), "the path {path:?} does not begin with /");
        self.with(|settings| path.trim_end_matches('/').clone_into(&mut settings.prefix))
    }

    /// Sets names of this server, such as `admin.internal`, under which the page may be reached.
    ///
    /// Default: none. `localhost` and literal addresses are always allowed.
    ///
    /// A request with another name in `Host` is rejected with 403, because a page of another site
    /// may have sent it (DNS rebinding). A port in a name is ignored.
    ///
    /// # Panics
    ///
    /// Panics if a name is not that of a host. A name with a scheme or a path is none.
    pub fn hosts<N: AsRef<str>>(self, names: impl IntoIterator<Item = N>) -> Self {
        self.with(|settings| {
            settings.hosts = Hosts::default();
            names.into_iter().for_each(|name| settings.hosts.add(name.as_ref()));
        })
    }

    /// Sets the closure that says who may change layers.
    ///
    /// Default: none. Nobody may.
    ///
    /// The closure gets the head of a request, and returns the name of the person who sent it, or
    /// `None` if this person must not change layers. A blank name is none. The closure is also
    /// asked for `GET /state.json`, whose reader sees switches only if it may use them. It must not
    /// block. If it panics, nothing changes.
    ///
    /// A proxy in front usually knows who it is. Trust its header only if nobody can reach this
    /// server without the proxy.
    ///
    /// ```
    /// use buttress::telemetry::Registry;
    /// use buttress_admin::{Actor, Admin};
    ///
    /// let registry = Registry::new();
    /// let admin = Admin::new(&registry).allow_changes(|parts| {
    ///     let name = parts.headers.get("x-authenticated-user")?.to_str().ok()?;
    ///     Some(Actor::new(name))
    /// });
    /// ```
    pub fn allow_changes(
        self,
        allows: impl Fn(&Parts) -> Option<Actor> + Send + Sync + 'static,
    ) -> Self {
        self.with(|settings| settings.allows = Some(Arc::new(allows)))
    }

    fn with(self, set: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Arc::unwrap_or_clone(self.settings);
        set(&mut settings);
        Self { settings: Arc::new(settings), ..self }
    }

    /// Returns the numbers of each dependency over the last seconds.
    ///
    /// Rates need two readings. If nobody has asked within the last seconds, this takes a second.
    pub async fn snapshots(&self) -> Vec<Snapshot> {
        let Shared { registry, readings, events } = &*self.shared;
        let mut snapshots = readings.snapshots(registry).await;
        snapshots.iter_mut().for_each(|snapshot| events.complete(snapshot));
        snapshots
    }

    async fn answer<B>(self, request: Request<B>) -> Response<AdminBody>
    where
        B: Body,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let (parts, body) = request.into_parts();
        self.route(&parts, body).await.into_response(&parts.method)
    }

    async fn route<B>(&self, parts: &Parts, body: B) -> Answer
    where
        B: Body,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        if !self.settings.hosts.allow(parts) {
            let text = "this name of the host is not allowed: see Admin::hosts";
            return Answer::problem(StatusCode::FORBIDDEN, text);
        }
        let reads = matches!(parts.method, Method::GET | Method::HEAD);
        match beneath(&parts.uri, &self.settings.prefix) {
            "/" if reads => Answer::new(HTML, page::PAGE).with_policy(page::POLICY),
            "/metrics" if reads => {
                let accept = parts.headers.get(ACCEPT).and_then(|value| value.to_str().ok());
                let (content_type, text) =
                    buttress_prometheus::render(&self.shared.registry, accept);
                Answer::new(content_type, text)
            }
            "/state.json" if reads => self.state(parts).await,
            "/control" if parts.method == Method::POST => self.control(parts, body).await,
            "/control" => method_not_allowed("POST"),
            "/" | "/metrics" | "/state.json" => method_not_allowed("GET, HEAD"),
            _ => Answer::problem(StatusCode::NOT_FOUND, "not found"),
        }
    }

    async fn state(&self, parts: &Parts) -> Answer {
        let changes = matches!(self.actor(parts), Ok(Some(_)));
        let state = State::new(self.snapshots().await, &self.shared.events, changes);
        match serde_json::to_vec(&state) {
            Ok(json) => Answer::new(JSON, json),
            Err(_) => Answer::problem(StatusCode::INTERNAL_SERVER_ERROR, "the state has no JSON"),
        }
    }

    async fn control<B>(&self, parts: &Parts, body: B) -> Answer
    where
        B: Body,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        // The body of a stranger is not read.
        let actor = match self.actor(parts) {
            Ok(Some(actor)) => actor,
            Ok(None) => {
                return Answer::problem(StatusCode::FORBIDDEN, "you may not change layers");
            }
            Err(Panicked) => {
                let text = "the closure of allow_changes panicked";
                return Answer::problem(StatusCode::INTERNAL_SERVER_ERROR, text);
            }
        };
        let change = match check(&parts.headers) {
            Ok(()) => read(body).await,
            Err(problem) => Err(problem),
        };
        let change = match change {
            Ok(change) => change,
            Err((status, text)) => return Answer::problem(status, text),
        };
        let stack = change.stack.as_deref();
        let registry = &self.shared.registry;
        match registry.control(stack, &change.layer, change.control, actor.as_str()) {
            0 => Answer::problem(StatusCode::NOT_FOUND, "no layer has this name and this change"),
            changed => Answer::new(JSON, format!("{{\"changed\":{changed}}}")),
        }
    }

    fn actor(&self, parts: &Parts) -> Result<Option<Actor>, Panicked> {
        let Some(allows) = &self.settings.allows else { return Ok(None) };
        // Unwind safe, because only the closure itself can see what its panic left behind.
        let actor = catch_unwind(AssertUnwindSafe(|| allows(parts)));
        // An event without a name would not say who it was.
        let actor = actor.map(|actor| actor.filter(|it| !it.as_str().trim().is_empty()));
        actor.map_err(|panic| {
            // The value of the panic may itself panic when it is dropped.
            _ = catch_unwind(AssertUnwindSafe(|| drop(panic)));
            Panicked
        })
    }
}

struct Panicked;

/// Returns the path beneath a prefix. A router may have removed the prefix.
fn beneath<'a>(uri: &'a Uri, prefix: &str) -> &'a str {
    let path = uri.path();
    match path.strip_prefix(prefix) {
        Some("") => "/",
        Some(rest) if rest.starts_with('/') => rest,
        _ => path,
    }
}

fn method_not_allowed(allow: &'static str) -> Answer {
    Answer::problem(StatusCode::METHOD_NOT_ALLOWED, "this path has no such method").allowing(allow)
}

impl<B> Service<Request<B>> for Admin
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    type Response = Response<AdminBody>;
    type Error = Infallible;
    type Future = AdminFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> AdminFuture {
        AdminFuture { inner: Box::pin(self.clone().answer(request)) }
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("prefix", &self.settings.prefix)
            .field("hosts", &self.settings.hosts)
            .field("allows_changes", &self.settings.allows.is_some())
            .finish_non_exhaustive()
    }
}

/// The future of a response of [`Admin`].
pub struct AdminFuture {
    inner: Pin<Box<dyn Future<Output = Response<AdminBody>> + Send>>,
}

impl Future for AdminFuture {
    type Output = Result<Response<AdminBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.inner.as_mut().poll(cx).map(Ok)
    }
}

impl fmt::Debug for AdminFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminFuture").finish_non_exhaustive()
    }
}
