//! A call, from the request to its response.
//!
//! It is not in `service.rs`, because it depends on the layer, and the layer creates the service.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use tower_service::Service;

use super::{
    Digests, FindKey, FindScope, Idempotency, IdempotencyLayer, ReadRequest, Record, SettleUnknown,
    Store,
    claim::{Claimant, Decision},
    future::ResponseFuture,
    shared::Shared,
    task,
};
use crate::{CarryRejection, call::oneshot::Oneshot, error::IdempotencyReason, telemetry::Event};

impl<S, Req, St, K, C, Q, R, U> Service<Req> for Idempotency<S, IdempotencyLayer<St, K, C, Q, R, U>>
where
    Req: Send + 'static,
    S: Service<Q::Request, Error: CarryRejection + Send, Response: Send, Future: Send>
        + Clone
        + Send
        + 'static,
    S::Response: 'static,
    S::Error: 'static,
    St: Store,
    K: FindKey<Req> + Send + Sync + 'static,
    C: FindScope<Req> + Send + Sync + 'static,
    Q: ReadRequest<Req, Request: Send + 'static> + Send + Sync + 'static,
    R: Record<Q::Request, S::Response, S::Error, Payload = St::Payload, Response: Send + 'static>
        + Send
        + Sync
        + 'static,
    U: SettleUnknown<S::Response> + Send + Sync + 'static,
{
    type Response = R::Response;
    type Error = S::Error;
    type Future = ResponseFuture<R::Response, S::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // Most duplicates never reach the service. A permit that the service reserved for them
        // would be wasted.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let IdempotencyLayer { rules, shared } = self.layer.clone();
        let service = self.inner.clone();
        ResponseFuture::new(async move {
            let operation = match rules.identify(&request) {
                Ok(Some(operation)) => operation,
                Ok(None) => {
                    let response = Oneshot::waiting(service, rules.read.pass(request)).await?;
                    return Ok(rules.record.pass(response));
                }
                Err(reason) => {
                    rules.read.discard(rules.read.pass(request));
                    if reason != IdempotencyReason::KeyMissing {
                        shared.count_request("rejected");
                    }
                    return Err(shared.reject(reason));
                }
            };
            let undecided = Undecided { shared: &shared, result: "left" };
            let digests = Digests::new(&shared.config.secrets.0);
            let read = rules.read.read(request, digests).await;
            let (mut request, digests) = match read {
                Ok(read) => read,
                Err(reason) => return Err(undecided.reject(reason)),
            };
            let (fingerprints, reserve) = (digests.finish(), rules.record.max_bytes());
            let claimant = Claimant::new(&shared, operation, fingerprints, U::ON_UNKNOWN, reserve);
            match claimant.until_settled().await {
                Ok(Decision::Run(granted, permit)) => {
                    rules.read.hand_over(&mut request, &granted.run);
                    let is_first = granted.run.previous_fence().is_none();
                    undecided.end(if is_first { "run" } else { "taken_over" });
                    let run = |answer| task::run(rules, service, request, granted, permit, answer);
                    task::detached(&shared, run).await
                }
                Ok(Decision::Replay(payload)) => {
                    let replayed = match rules.record.replay(payload) {
                        Ok(mut replayed) if rules.record.can_read(&request, &replayed) => {
                            rules.record.mark_replayed(&mut replayed);
                            undecided.end("replayed");
                            Ok(replayed)
                        }
                        Ok(_) => Err(undecided.reject(IdempotencyReason::NotReplayable)),
                        Err(error) => {
                            let (error, took) = (format_args!("{error}"), Duration::ZERO);
                            shared.reporter().emit(Event::StoreFailed { error, took });
                            Err(undecided.reject(IdempotencyReason::StoreUnavailable))
                        }
                    };
                    rules.read.discard(request);
                    replayed
                }
                Err(reason) => {
                    rules.read.discard(request);
                    Err(undecided.reject(reason))
                }
            }
        })
    }
}

/// A request with a key, until the layer has decided about it.
///
/// Dropping it counts the request. Without another result, its caller has left.
struct Undecided<'a, St> {
    shared: &'a Shared<St>,
    result: &'static str,
}

impl<St> Undecided<'_, St> {
    /// Counts the request with this result.
    fn end(mut self, result: &'static str) {
        self.result = result;
    }

    /// Counts and rejects the request.
    fn reject<E: CarryRejection>(mut self, reason: IdempotencyReason) -> E {
        self.result = "rejected";
        self.shared.reject(reason)
    }
}

impl<St> Drop for Undecided<'_, St> {
    fn drop(&mut self) {
        self.shared.count_request(self.result);
    }
}
