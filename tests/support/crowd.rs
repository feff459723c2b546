//! Tests of many concurrent duplicates: one execution, and no response that contradicts it.
//!
//! The crates of stores include this file too.

use std::{
    convert::Infallible,
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use buttress::http::idempotency::{HeaderKey, ReadHttp, RecordHttp};
use buttress::{
    Stack,
    bulkhead::BulkheadLayer,
    http::HttpServerLayer,
    idempotency::{
        IdempotencyBuilder, IdempotencyHandle, IdempotencyLayer, Scoped, SingleTenant, Store,
    },
};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::{task::JoinSet, time::sleep};
use tower::{Layer, ServiceExt, service_fn};

pub(crate) type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;
type Builder<St> = IdempotencyBuilder<St, HeaderKey, Scoped<SingleTenant>, ReadHttp, RecordHttp>;

const CROWD: u32 = 1_000;

struct Answered {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// The results of a crowd of duplicates.
struct Crowd<St> {
    executions: u32,
    answers: Vec<Answered>,
    guard: IdempotencyHandle<St>,
}

impl<St: Store<Payload = Vec<u8>>> Crowd<St> {
    /// Sends the same request many times at once, to a handler whose responses all differ.
    async fn gather(store: St, set: impl FnOnce(Builder<St>) -> Builder<St>) -> Outcome<Self> {
        let layer = set(IdempotencyLayer::http(store).single_tenant()).build()?;
        let guard = layer.handle();
        let executions = Arc::new(AtomicU32::new(0));
        let handler = service_fn({
            let executions = Arc::clone(&executions);
            move |_: Request<_>| {
                let number = executions.fetch_add(1, Ordering::Relaxed);
                async move {
                    sleep(Duration::from_millis(50)).await;
                    let answer = Response::builder().status(201).header("location", "/payments/7");
                    Ok::<_, Infallible>(
                        answer.body(Full::<Bytes>::from(format!("execution {number}"))).unwrap(),
                    )
                }
            }
        });
        // Duplicates take no slot of the bulkhead.
        let one = BulkheadLayer::builder().max_concurrent(1).build()?;
        let server = HttpServerLayer::builder(Stack::new().bulkhead(one)).outside(layer);
        let server = server.build()?.layer(handler);
        let mut asking = JoinSet::new();
        for _ in 0..CROWD {
            let request = Request::post("/payments").header("idempotency-key", "payment 7");
            let answer = server.clone().oneshot(request.body(Full::<Bytes>::from("42 EUR"))?);
            asking.spawn(async move {
                let (head, body) = answer.await?.into_parts();
                let body = body.collect().await?.to_bytes();
                Outcome::Ok(Answered { status: head.status, headers: head.headers, body })
            });
        }
        let mut answers = Vec::new();
        while let Some(answered) = asking.join_next().await {
            answers.push(answered??);
        }
        Ok(Self { executions: executions.load(Ordering::Relaxed), answers, guard })
    }

    /// Checks that there was one execution, and that every caller got its response or a time to
    /// retry.
    ///
    /// Returns the number of callers that got the response.
    fn holds(&self) -> usize {
        let mut recorded = 0;
        for Answered { status, headers, body } in &self.answers {
            let text = String::from_utf8_lossy(body);
            if *status == StatusCode::CONFLICT {
                assert!(headers.contains_key("retry-after"), "a 409 that is final: {text}");
                continue;
            }
            assert_eq!((status.as_u16(), &*text), (201, "execution 0"));
            assert_eq!(headers["location"], "/payments/7");
            recorded += 1;
        }
        assert_eq!(self.executions, 1);
        assert_eq!(self.guard.in_flight(), 0);
        recorded
    }
}

/// Tests a store, with both ways to treat duplicates, and with too few runs for all of them.
pub(crate) async fn no_crowd_gets_more_than_one_execution<St>(first: St, second: St) -> Outcome
where
    St: Store<Payload = Vec<u8>>,
{
    let rejected = Crowd::gather(first, |guard| guard.max_runs(2)).await?;
    assert!(rejected.holds() >= 1, "nobody was told the answer");

    let limit = Duration::from_secs(60);
    let waited = Crowd::gather(second, |guard| guard.max_runs(2).wait_for_duplicates(limit));
    assert_eq!(waited.await?.holds(), CROWD as usize, "somebody did not wait");
    Ok(())
}
