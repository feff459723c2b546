//! Our clients: a standard stack around hyper's client, and around reqwest.

use std::time::Duration;

use buttress::{
    BoxError, CarryRejection, Stack,
    circuit_breaker::{CircuitBreakerHandle, CircuitBreakerLayer},
    http::{
        HttpClientLayer, HttpStack, ReplayBody, ReplayBodyLayer, ReplaySafe,
        SetIdempotencyKeyLayer, idempotency::IDEMPOTENCY_REPLAYED, reqwest::ReqwestClient,
    },
    retry::{Budget, RetryLayer},
};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper_util::{client::legacy, rt::TokioExecutor};
use reqwest::redirect::Policy;
use tower::{Layer, Service, ServiceExt, util::BoxCloneSyncService};

use super::table::{Asked, By, Case};

/// The limit of an attempt where the server hangs.
pub(crate) const ATTEMPT: Duration = Duration::from_secs(1);

pub(crate) type AnyBody = UnsyncBoxBody<Bytes, BoxError>;
pub(crate) type Client = BoxCloneSyncService<Request<String>, Response<AnyBody>, BoxError>;

/// A client, and the counts of its stack.
pub(crate) struct Counted {
    client: Client,
    breaker: CircuitBreakerHandle,
    budget: Budget,
}

impl Counted {
    pub(crate) fn new(by: By, asked: Asked, case: Case) -> Self {
        let breaker = CircuitBreakerLayer::new();
        let retry = RetryLayer::new(ReplaySafe::new());
        let (handle, budget) = (breaker.handle(), retry.budget().unwrap().clone());
        let mut stack = Stack::standard_http().circuit_breaker(breaker).retry(retry);
        if case == Case::Hang {
            stack = stack.attempt_timeout(ATTEMPT);
        }
        if asked == Asked::Buffered {
            let http = HttpClientLayer::builder().body_buffer(64 << 10).build().unwrap();
            stack = stack.http_client(http);
        }
        let client = if case.length() > 1 << 10 {
            // The way for bodies that are not `Clone`. It keeps 64 KiB.
            let replay = ReplayBodyLayer::new();
            match by {
                By::Hyper => boxed(replay.layer(stack.boxed(hyper::<ReplayBody<String>>()))),
                By::Reqwest => boxed(replay.layer(stack.boxed(reqwest::<ReplayBody<String>>()))),
            }
        } else {
            by.client(stack)
        };
        let client = match asked {
            Asked::Keyed => boxed(SetIdempotencyKeyLayer::new().layer(client)),
            Asked::Post | Asked::Get | Asked::Buffered => client,
        };
        Self { client, breaker: handle, budget }
    }

    /// Sends a request, and reads the response to its end. Returns what the caller saw.
    pub(crate) async fn call(&self, request: Request<String>) -> String {
        let response = match self.client.clone().oneshot(request).await {
            Ok(response) => response,
            Err(error) => {
                let kind = error.rejection().map_or("no response", |rejection| rejection.kind());
                return kind.replace('_', " ");
            }
        };
        let mut saw = response.status().as_str().to_owned();
        if response.headers().contains_key(IDEMPOTENCY_REPLAYED) {
            saw += ", replayed";
        }
        match response.into_body().collect().await {
            Ok(body) => match body.to_bytes().len() >> 20 {
                0 => {}
                large => saw += &format!(", {large} MiB"),
            },
            Err(_) => saw += ", cut off",
        }
        saw
    }

    /// Returns the failures that the breaker has counted.
    pub(crate) fn failures(&self) -> u64 {
        self.breaker.snapshot().failures()
    }

    /// Returns the retries that the budget has paid for.
    pub(crate) fn retries(&self) -> f64 {
        Budget::new().balance() - self.budget.balance()
    }
}

impl By {
    pub(crate) fn client(self, stack: HttpStack) -> Client {
        match self {
            Self::Hyper => boxed(stack.boxed(hyper::<String>())),
            Self::Reqwest => boxed(stack.boxed(reqwest::<String>())),
        }
    }
}

fn hyper<B>() -> legacy::Client<legacy::connect::HttpConnector, B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    legacy::Client::builder(TokioExecutor::new()).build_http()
}

/// Returns our adapter, which follows redirects.
fn reqwest<B>() -> ReqwestClient<B> {
    ReqwestClient::new(::reqwest::Client::builder().no_proxy(), Policy::limited(5)).unwrap()
}

fn boxed<S, B>(service: S) -> Client
where
    S: Service<Request<String>, Response = Response<B>, Error = BoxError>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let any = |body: B| AnyBody::new(body.map_err(Into::into));
    BoxCloneSyncService::new(service.map_response(move |response: Response<B>| response.map(any)))
}
