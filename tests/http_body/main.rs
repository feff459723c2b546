//! Tests of calls that end with the body of their response, on a paused clock.

#![cfg(feature = "http")]

mod accounts;
mod ambient;
mod buffered;
mod bytes;
mod cancellation;
mod costs;
mod drained;
mod endings;
mod grpc;
mod limits;
mod probes;
mod readers;
mod script;
mod server;
mod spans;
mod unread;
mod wakers;

use std::{
    convert::Infallible,
    future::ready,
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use buttress::{
    Error, Rejection, Stack,
    bulkhead::{BulkheadHandle, BulkheadLayer},
    circuit_breaker::{CircuitBreakerBuilder, CircuitBreakerHandle, CircuitBreakerLayer},
    http::{BodyError, HttpClientBuilder, HttpClientLayer, HttpServerLayer, ReplaySafe},
    retry::{Budget, RetryLayer},
};
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body::Body;
use http_body_util::{BodyExt, Empty, combinators::UnsyncBoxBody};
use hyper::body::Bytes;
use tokio_test::task::{self, Spawn};
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneService};

use self::{
    script::{Broken, Feed, Scripted, Step},
    spans::Spans,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// The default idle limit of a client.
const IDLE: Duration = Duration::from_secs(30);

type Ask = Request<Empty<Bytes>>;
type Rejected = Error<Infallible>;
type Reader = UnsyncBoxBody<Bytes, BodyError<Broken>>;
type Called = BoxCloneService<Ask, Response<Reader>, Rejected>;

/// A service with the handles that show what its calls hold.
struct Rig {
    service: Called,
    slots: Vec<BulkheadHandle>,
    breakers: Vec<CircuitBreakerHandle>,
    budgets: Vec<Budget>,
    answers: Answers,
    spans: Spans,
}

/// The source of the service's responses.
#[derive(Clone, Default)]
struct Answers(Arc<Mutex<Option<Response<Scripted>>>>);

impl Answers {
    fn take(&self) -> Response<Scripted> {
        self.0.lock().unwrap().take().expect("an answer for each call")
    }
}

fn window() -> CircuitBreakerBuilder {
    CircuitBreakerLayer::builder().count_window(10).minimum_calls(10).open_jitter(0.0)
}

/// One layer of each kind that holds something until the end of the body.
#[derive(Clone)]
struct Layers {
    slots: BulkheadLayer,
    breaker: CircuitBreakerLayer,
    budget: Budget,
}

impl Layers {
    fn new(breaker: CircuitBreakerBuilder) -> Self {
        Self {
            slots: BulkheadLayer::builder().max_concurrent(4).build().unwrap(),
            breaker: breaker.build().unwrap(),
            budget: Budget::throttle().max_tokens(10).token_ratio(0.5).build().unwrap(),
        }
    }

    fn retry(&self) -> RetryLayer<ReplaySafe> {
        RetryLayer::builder(ReplaySafe::new()).budget(self.budget.clone()).build().unwrap()
    }
}

/// Makes a stack of all these layers, as a layer. It is a macro because the type has no name.
macro_rules! stack {
    ($layers:expr) => {{
        let layers = $layers;
        let stack = Stack::new().retry(layers.retry()).bulkhead(layers.slots.clone());
        stack.circuit_breaker(layers.breaker.clone())
    }};
}

macro_rules! handler {
    ($answers:expr, $error:ty) => {{
        let answers = $answers.clone();
        service_fn(move |_: Ask| ready(Ok::<_, $error>(answers.take())))
    }};
}
use handler;

impl Rig {
    fn assemble(layers: &[&Layers], answers: Answers, service: Called) -> Self {
        Self {
            service,
            slots: layers.iter().map(|layers| layers.slots.handle()).collect(),
            breakers: layers.iter().map(|layers| layers.breaker.handle()).collect(),
            budgets: layers.iter().map(|layers| layers.budget.clone()).collect(),
            answers,
            spans: Spans::start(),
        }
    }

    /// Creates a client with its default settings.
    fn client() -> Self {
        Self::client_with(window(), HttpClientLayer::builder())
    }

    fn client_with_breaker(breaker: CircuitBreakerBuilder) -> Self {
        Self::client_with(breaker, HttpClientLayer::builder())
    }

    fn client_with(breaker: CircuitBreakerBuilder, client: HttpClientBuilder) -> Self {
        Self::client_within(None, breaker, client)
    }

    /// The same within a total timeout.
    fn client_within(
        total: Option<Duration>,
        breaker: CircuitBreakerBuilder,
        client: HttpClientBuilder,
    ) -> Self {
        let layers = Layers::new(breaker);
        let answers = Answers::default();
        let stack = stack!(&layers).total_timeout(total).http_client(client.build().unwrap());
        let service = stack.service(handler!(answers, Infallible));
        let service = service.map_response(|response| response.map(BodyExt::boxed_unsync));
        Self::assemble(&[&layers], answers, BoxCloneService::new(service))
    }

    /// Creates a stack in a stack, which holds twice as much.
    fn nested() -> Self {
        let (outer, inner) = (Layers::new(window()), Layers::new(window()));
        let answers = Answers::default();
        let service = stack!(&inner).http().service(handler!(answers, Infallible));
        let service = stack!(&outer).http().layer(service);
        let service = service.map_response(|response: Response<_>| {
            response.map(|body| body.map_err(flatten).boxed_unsync())
        });
        Self::assemble(&[&outer, &inner], answers, BoxCloneService::new(service))
    }

    /// Creates a server with the idle limit of a client.
    fn server() -> Self {
        Self::server_with_breaker(window())
    }

    fn server_with_breaker(breaker: CircuitBreakerBuilder) -> Self {
        Self::server_with(breaker, ServerSettings { idle: Some(IDLE), ..Default::default() })
    }

    fn server_with(breaker: CircuitBreakerBuilder, settings: ServerSettings) -> Self {
        let layers = Layers::new(breaker);
        let answers = Answers::default();
        let stack = Stack::new().bulkhead(layers.slots.clone());
        let mut layer = HttpServerLayer::builder(stack.circuit_breaker(layers.breaker.clone()));
        if let Some(idle) = settings.idle {
            layer = layer.body_idle(idle);
        }
        if let Some(limit) = settings.limit {
            layer = layer.limit(limit);
        }
        if let Some(unread) = settings.unread {
            layer = layer.body_unread(unread);
        }
        if settings.body_deadline {
            layer = layer.body_deadline();
        }
        let service = layer.build().unwrap().layer(handler!(answers, Infallible));
        let service = service.map_response(|response| response.map(BodyExt::boxed_unsync));
        let service = BoxCloneService::new(service.map_err(|never| match never {}));
        Self { budgets: Vec::new(), ..Self::assemble(&[&layers], answers, service) }
    }

    /// Makes one call, and returns its response.
    async fn ask(
        &self,
        request: Ask,
        answer: Response<Scripted>,
    ) -> Result<Response<Reader>, Rejected> {
        *self.answers.0.lock().unwrap() = Some(answer);
        self.service.clone().oneshot(request).await
    }

    /// Returns a response with the body of this feed.
    async fn get(&self, feed: &Feed) -> Response<Reader> {
        self.ask(Request::default(), Response::new(feed.body())).await.unwrap()
    }

    async fn read(&self, feed: &Feed) -> Spawn<Reader> {
        task::spawn(self.get(feed).await.into_body())
    }

    /// Does the same for gRPC, and returns the body.
    async fn stream(&self, feed: &Feed) -> Spawn<Reader> {
        let (request, answer) = grpc(Response::new(feed.body()));
        task::spawn(self.ask(request, answer).await.unwrap().into_body())
    }

    fn in_flight(&self) -> u32 {
        self.slots.iter().map(BulkheadHandle::in_flight).max().unwrap()
    }

    /// Returns the calls and failures that the breaker has counted.
    fn verdict(&self) -> (u64, u64) {
        let seen = self.breakers[0].snapshot();
        (seen.calls(), seen.failures())
    }

    /// Checks that everything is held, and that nothing was counted yet.
    #[track_caller]
    fn assert_under_way(&self) {
        for slots in &self.slots {
            assert_eq!(slots.in_flight(), 1, "slots");
        }
        for breaker in &self.breakers {
            assert_eq!(breaker.snapshot().calls(), 0, "verdicts");
        }
        for budget in &self.budgets {
            assert_eq!(budget.balance(), 10.0, "budget");
        }
        assert_eq!(self.spans.open(), (self.slots.len() + self.budgets.len(), true), "spans");
        assert_eq!(self.spans.closed(), []);
    }

    /// Checks that nothing is held, and that everything was counted.
    #[track_caller]
    fn assert_ended(&self, verdict: (u64, u64)) {
        for slots in &self.slots {
            assert_eq!(slots.in_flight(), 0, "slots");
        }
        for breaker in &self.breakers {
            let seen = breaker.snapshot();
            assert_eq!((seen.calls(), seen.failures()), verdict, "verdict");
        }
        for budget in &self.budgets {
            assert_eq!(budget.balance(), 10.0 - verdict.1 as f64, "budget");
        }
        assert_eq!(self.spans.open(), (0, true), "spans");
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct ServerSettings {
    idle: Option<Duration>,
    limit: Option<Duration>,
    body_deadline: bool,
    unread: Option<Duration>,
}

/// Returns trailers with a gRPC status.
fn grpc_status(code: &'static str) -> Step {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(code));
    Step::Trailers(trailers)
}

/// Returns a gRPC request, and the response as a gRPC response.
fn grpc(mut answer: Response<Scripted>) -> (Ask, Response<Scripted>) {
    let kind = HeaderValue::from_static("application/grpc");
    let mut request = Ask::default();
    request.headers_mut().insert(CONTENT_TYPE, kind.clone());
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    (request, answer)
}

fn flatten(error: BodyError<BodyError<Broken>>) -> BodyError<Broken> {
    match error {
        BodyError::Rejected(rejection) => BodyError::Rejected(rejection),
        BodyError::Service(error) => error,
    }
}

/// The result of a read from a body.
#[derive(Clone, Debug, PartialEq)]
enum Got {
    Data(Bytes),
    Trailers(HeaderMap),
    Broken,
    /// Cut by the limit of this name and length.
    TimedOut(String, Duration),
    End,
}

fn data(text: &'static str) -> Poll<Got> {
    Poll::Ready(Got::Data(Bytes::from_static(text.as_bytes())))
}

fn timed_out(name: &str, limit: Duration) -> Poll<Got> {
    Poll::Ready(Got::TimedOut(name.to_owned(), limit))
}

/// Polls the next frame.
fn next(reader: &mut Spawn<Reader>) -> Poll<Got> {
    reader.enter(|cx, body| body.poll_frame(cx)).map(|frame| match frame {
        None => Got::End,
        Some(Err(BodyError::Service(Broken))) => Got::Broken,
        Some(Err(BodyError::Rejected(Rejection::TimedOut(late)))) => {
            Got::TimedOut(late.name().to_owned(), late.limit())
        }
        Some(Err(error)) => panic!("{error:?}"),
        Some(Ok(frame)) => match frame.into_data() {
            Ok(data) => Got::Data(data),
            Err(frame) => Got::Trailers(frame.into_trailers().unwrap()),
        },
    })
}
