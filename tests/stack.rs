//! Tests of the stack through its public API.

#[path = "support/stacks.rs"]
mod stacks;

use std::{
    convert::Infallible,
    error::Error as StdError,
    io,
    marker::PhantomPinned,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    task::Poll,
    time::Duration,
};

use buttress::{
    BoxError, CarryRejection, Deadline, Error, Fault, Outcome, Rejection, Stack,
    bulkhead::BulkheadLayer,
    circuit_breaker::{CircuitBreakerLayer, State},
    retry::{Backoff, Budget, Jitter, ReplayClones, RetryLayer, replay_fn},
    telemetry::CallSpan,
    testing::{
        Flaky, Reserving, Step,
        cancel::CancelHarness,
        task::{Spawned, SpawnedService},
    },
    timeout::TimeoutLayer,
};
use futures::future::join_all;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::time::{Instant, advance};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use self::stacks::{ATTEMPT, Failure, TOTAL, breaker, broken, kind, retry};

// Order.

#[tokio::test(start_paused = true)]
async fn setters_in_any_order_nest_alike() {
    fn same<T>(_: &T, _: &T) {}
    let one = || {
        let stack =
            Stack::new().total_timeout(TOTAL).retry(retry()).bulkhead(BulkheadLayer::default());
        stack.circuit_breaker(breaker(100)).attempt_timeout(ATTEMPT)
    };
    let other = || {
        let stack = Stack::new().attempt_timeout(ATTEMPT).circuit_breaker(breaker(100));
        stack.bulkhead(BulkheadLayer::default()).retry(retry()).total_timeout(TOTAL)
    };
    // The type shows how the layers nest.
    same(&one(), &other());
    same(
        &one().layer(Flaky::<(), Failure>::new([], || Ok(()))),
        &other().layer(Flaky::new([], || Ok(()))),
    );

    for stack in [one(), other()] {
        let inner = Flaky::new((0..10).map(|_| Step::Hang), || Ok::<_, io::Error>(()));
        let handle = inner.handle();
        let began = Instant::now();
        // Two attempts of 30 and two pauses of 10 pass. The total timeout cuts the third attempt.
        let error = stack.service::<_, (), _>(inner).oneshot(()).await.unwrap_err();
        let Some(Rejection::TimedOut(late)) = error.rejection() else { panic!("{error:?}") };
        assert_eq!((late.limit(), began.elapsed(), handle.calls()), (TOTAL, TOTAL, 3));
    }
}

#[tokio::test(start_paused = true)]
async fn a_trip_empties_the_queue() {
    let inner = service_fn({
        let calls = Arc::new(AtomicU32::new(0));
        move |()| {
            let calls = calls.fetch_add(1, Ordering::Relaxed) + 1;
            async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                Err::<(), _>(io::Error::other(calls.to_string()))
            }
        }
    });
    let bulkhead = BulkheadLayer::builder()
        .max_concurrent(1)
        .queue(100, Duration::from_secs(60))
        .build()
        .unwrap();
    let handle = bulkhead.handle();
    let service = Stack::new().bulkhead(bulkhead).circuit_breaker(breaker(4)).service(inner);
    let calls = (0..60).map(|_| service.clone().oneshot(()));
    let began = Instant::now();
    let answers = join_all(calls).await;
    assert_eq!(began.elapsed(), Duration::from_millis(40));
    let seen = answers.iter().filter(|answer| matches!(answer, Err(Error::Service(_)))).count();
    let open = |answer: &&Result<(), Failure>| {
        matches!(answer, Err(Error::Rejected(Rejection::CircuitOpen(_))))
    };
    assert_eq!((seen, answers.iter().filter(open).count()), (4, 56));
    assert_eq!((handle.in_flight(), handle.queued()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn no_slot_is_held_over_a_pause() {
    let bulkhead = BulkheadLayer::builder().max_concurrent(1).build().unwrap();
    let handle = bulkhead.handle();
    let inner = Flaky::new([Step::Respond(Err(broken()))], || Ok("answer"));
    let service = Stack::new()
        .total_timeout(TOTAL)
        .retry(retry())
        .bulkhead(bulkhead)
        .service::<_, (), _>(inner);
    let mut call = Spawned::new(service.clone().oneshot(()));
    assert!(call.poll().is_pending());
    assert_eq!(handle.in_flight(), 0);
    assert_eq!(service.oneshot(()).await.unwrap(), "answer");
}

#[tokio::test(start_paused = true)]
async fn time_in_the_queue_is_not_held_against_the_dependency() {
    let bulkhead = BulkheadLayer::builder()
        .max_concurrent(1)
        .queue(100, Duration::from_secs(60))
        .build()
        .unwrap();
    let breaker = breaker(2);
    let handle = breaker.handle();
    let stack = Stack::new().bulkhead(bulkhead).circuit_breaker(breaker).attempt_timeout(ATTEMPT);
    let service = stack.service(service_fn(|()| async {
        tokio::time::sleep(ATTEMPT - Duration::from_millis(1)).await;
        Ok::<_, io::Error>(())
    }));
    let answers = join_all((0..20).map(|_| service.clone().oneshot(()))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!((handle.state(), handle.snapshot().failures()), (State::Closed, 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_runs_for_the_attempt_or_the_total_timeout_of_its_stack_counts() {
    let hangs = || service_fn(|()| std::future::pending::<Result<(), io::Error>>());
    macro_rules! opens {
        ($stack:expr) => {{
            let breaker = breaker(1);
            let handle = breaker.handle();
            let service = $stack.circuit_breaker(breaker).service(hangs());
            assert_eq!(kind(service.oneshot(()).await), "timed_out");
            assert_eq!(handle.state(), State::Open);
        }};
    }
    opens!(Stack::new().total_timeout(TOTAL));
    opens!(Stack::new().total_timeout(Some(TOTAL)));
    opens!(Stack::new().attempt_timeout(ATTEMPT));
    // Either way around.
    opens!(Stack::new().total_timeout(TOTAL).attempt_timeout(ATTEMPT));
    opens!(Stack::new().total_timeout(ATTEMPT).attempt_timeout(TOTAL));
    opens!(Stack::new().total_timeout(TOTAL).attempt_timeout(Duration::MAX));

    let (first, keyed) = (breaker(1), CircuitBreakerLayer::builder().consecutive_failures(1));
    let keyed = keyed.keyed_fn(|(): &()| ()).build().unwrap();
    let stack = Stack::new().total_timeout(TOTAL);
    for _ in 0..2 {
        let one = stack.clone().circuit_breaker(Some(first.clone()));
        let _ = one.service(hangs()).oneshot(()).await;
        let one = stack.clone().circuit_breaker(keyed.clone());
        let _ = one.service(hangs()).oneshot(()).await;
    }
    let states = (first.handle().state(), keyed.handle(&()).unwrap().state());
    assert_eq!(states, (State::Open, State::Open));

    // A total timeout around the stack is a deadline of its caller.
    let breaker = breaker(1);
    let handle = breaker.handle();
    let service = Stack::new().circuit_breaker(breaker).service(hangs());
    let outer = TimeoutLayer::new(TOTAL).layer(service);
    assert_eq!(kind(outer.oneshot(()).await), "timed_out");
    assert_eq!(handle.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_is_not_retried() {
    let breaker = breaker(1);
    breaker.handle().force_open();
    let inner = Flaky::new([], || Ok::<_, io::Error>(()));
    let handle = inner.handle();
    let stack = Stack::standard(ReplayClones).circuit_breaker(breaker);
    let stack = stack.classify_fn(|_: Result<&(), &Failure>| Outcome::Failure(Fault::Transient));
    let began = Instant::now();
    assert_eq!(kind(stack.service::<_, (), _>(inner).oneshot(()).await), "circuit_open");
    assert_eq!((handle.calls(), began.elapsed()), (0, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_total_over_a_service_that_is_never_ready_answers_in_time() {
    let inner = Flaky::new([Step::Unready], || Ok::<_, io::Error>(()));
    let handle = inner.handle();
    let service = Stack::standard(ReplayClones).total_timeout(TOTAL).service::<_, (), _>(inner);
    let mut service = SpawnedService::new(service);
    assert!(service.poll_ready().is_ready());
    let began = Instant::now();
    assert_eq!(kind(service.call(()).into_inner().await), "timed_out");
    assert_eq!((began.elapsed(), handle.calls()), (TOTAL, 0));
}

#[tokio::test(start_paused = true)]
async fn every_attempt_sees_the_deadline() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let inner = service_fn(move |()| {
        let in_call = Deadline::current();
        let log = Arc::clone(&log);
        async move {
            assert_eq!(Deadline::current(), in_call);
            log.lock().unwrap().push(in_call.unwrap().remaining());
            Err::<(), _>(broken())
        }
    });
    let stack = Stack::standard(ReplayClones).retry(retry()).total_timeout(TOTAL);
    assert!(stack.clone().service(inner.clone()).oneshot(()).await.is_err());
    let millis =
        |left: &[u64]| left.iter().map(|ms| Duration::from_millis(*ms)).collect::<Vec<_>>();
    assert_eq!(std::mem::take(&mut *seen.lock().unwrap()), millis(&[100, 90, 80, 70]));
    // The nearest deadline counts, if an attempt has one too.
    let stack = stack.attempt_timeout(Duration::from_millis(85));
    assert!(stack.service::<_, (), _>(inner).oneshot(()).await.is_err());
    assert_eq!(*seen.lock().unwrap(), millis(&[85, 85, 80, 70]));
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_anywhere_leaves_nothing_behind() {
    let bulkhead = BulkheadLayer::builder().max_concurrent(2).queue(8, TOTAL).build().unwrap();
    let slots = bulkhead.handle();
    let stack = Stack::standard(ReplayClones).retry(retry()).bulkhead(bulkhead);
    let inner = Flaky::new([], || Ok::<_, io::Error>("answer"));
    let script = inner.handle();
    let reserving = Reserving::new(inner, 2);
    let reserved = reserving.handle();
    let service = stack.service::<_, (), _>(reserving);
    CancelHarness::new(|| {
        script.push(Step::RespondAfterPolls(2, Err(broken())));
        service.clone().oneshot(())
    })
    .run_with(
        || advance(Duration::from_millis(5)),
        |_| {
            assert_eq!((slots.in_flight(), slots.queued()), (0, 0));
            assert_eq!((script.in_flight(), reserved.taken()), (0, 0));
        },
    )
    .await;
    assert_eq!((script.violations(), reserved.unready_calls()), (vec![], 0));
}

// Classifiers.

#[tokio::test(start_paused = true)]
async fn one_verdict_serves_every_layer() {
    let breaker = breaker(4);
    let handle = breaker.handle();
    let inner = Flaky::new([], || Ok::<_, io::Error>(503_u16));
    let script = inner.handle();
    let stack = Stack::new().retry(retry()).circuit_breaker(breaker);
    let stack = stack.classify_fn(|result: Result<&u16, &_>| match result {
        Ok(status) if *status < 500 => Outcome::Success,
        _ => Outcome::Failure(Fault::Transient),
    });
    assert_eq!(stack.service::<_, (), _>(inner).oneshot(()).await.unwrap(), 503);
    assert_eq!((script.calls(), handle.state()), (4, State::Open));
}

#[tokio::test(start_paused = true)]
async fn a_verdict_of_a_layer_wins_over_that_of_the_stack() {
    let failure = |_: Result<&u16, &Failure>| Outcome::Failure(Fault::Transient);
    let success = |_: Result<&u16, &Failure>| Outcome::Success;
    for classify_first in [true, false] {
        let builder = CircuitBreakerLayer::builder().consecutive_failures(1);
        let breaker = builder.classify_fn(failure).build().unwrap();
        let handle = breaker.handle();
        let inner = Flaky::new([], || Ok::<_, io::Error>(503_u16));
        let script = inner.handle();
        if classify_first {
            let stack = Stack::new().classify_fn(success).retry(retry()).circuit_breaker(breaker);
            assert!(stack.service::<_, (), _>(inner).oneshot(()).await.is_ok());
        } else {
            let stack = Stack::new().retry(retry()).circuit_breaker(breaker).classify_fn(success);
            assert!(stack.service::<_, (), _>(inner).oneshot(()).await.is_ok());
        }
        // The retry uses the stack's classifier, and the breaker its own.
        assert_eq!((script.calls(), handle.state()), (1, State::Open));
    }
    let own =
        RetryLayer::builder(ReplayClones).without_budget().classify_fn(failure).build().unwrap();
    let inner = Flaky::new([], || Ok::<_, io::Error>(503_u16));
    let script = inner.handle();
    assert!(
        Stack::new()
            .retry(own)
            .classify_fn(success)
            .service::<_, (), _>(inner)
            .oneshot(())
            .await
            .is_ok()
    );
    assert_eq!(script.calls(), 4);
}

// The services that it wraps.

#[tokio::test(start_paused = true)]
async fn it_goes_around_a_function_without_a_type_annotation() {
    let service = Stack::standard(ReplayClones)
        .service(service_fn(|x: u32| async move { Ok::<_, io::Error>(x + 1) }));
    assert_eq!(service.oneshot(1).await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn it_goes_around_an_infallible_service() {
    let service = Stack::standard(ReplayClones)
        .service(service_fn(|x: u32| async move { Ok::<_, Infallible>(x + 1) }));
    let answer: Result<u32, Error<Infallible>> = service.oneshot(1).await;
    assert_eq!(answer, Ok(2));
}

#[test]
fn it_goes_around_a_pooled_http_client() {
    type Request = hyper::Request<Empty<Bytes>>;
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let gets = replay_fn(|request: &Request| Some(request.clone()));
    fn clonable<S: Service<Request> + Clone + Send + Sync + 'static>(_: &S)
    where
        S::Future: Send,
    {
    }
    clonable(&Stack::standard(gets).service(client));
}

#[tokio::test(start_paused = true)]
async fn it_goes_around_boxed_errors_and_between_towers_own_layers() {
    let inner = Flaky::new([Step::Hang], || Ok::<_, BoxError>("answer"));
    let service = ServiceBuilder::new()
        .timeout(Duration::from_secs(1))
        .concurrency_limit(10)
        .layer(Stack::standard(ReplayClones).retry(retry()))
        .timeout(ATTEMPT)
        .concurrency_limit(10)
        .service(inner.clone());
    // The inner timeout of tower is a rejection, and is not retried.
    assert!(service.oneshot(()).await.unwrap_err().is::<tower::timeout::error::Elapsed>());
    assert_eq!(inner.handle().calls(), 1);
    let boxed = Stack::standard(ReplayClones).boxed::<_, ()>(inner);
    assert_eq!(boxed.oneshot(()).await.unwrap(), "answer");
    let from_plain = service_fn(|()| async { Err::<(), _>(broken()) });
    let boxed = Stack::new().attempt_timeout(ATTEMPT).boxed(from_plain);
    assert!(boxed.oneshot(()).await.unwrap_err().downcast_ref::<io::Error>().is_some());
}

fn client() -> impl Service<String, Response = usize, Error = Failure, Future: Send> + Clone {
    Stack::standard(ReplayClones)
        .service(service_fn(|path: String| async move { Ok::<_, io::Error>(path.len()) }))
}

#[tokio::test(start_paused = true)]
async fn it_can_be_returned_from_a_function() {
    assert_eq!(client().oneshot("four".to_owned()).await.unwrap(), 4);
    let spawned = tokio::spawn(client().clone().oneshot("four".to_owned()));
    assert_eq!(spawned.await.unwrap().unwrap(), 4);
}

#[derive(Debug)]
enum Own {
    Rejected(Rejection),
    Broken,
}

impl CarryRejection for Own {
    fn from_rejection(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }

    fn rejection(&self) -> Option<&Rejection> {
        match self {
            Self::Rejected(rejection) => Some(rejection),
            Self::Broken => None,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn it_speaks_the_users_own_error() {
    let breaker = breaker(1);
    let stack = Stack::standard(ReplayClones).circuit_breaker(breaker);
    let service = stack.layer(service_fn(|()| async { Err::<(), _>(Own::Broken) }));
    assert!(matches!(service.clone().oneshot(()).await, Err(Own::Broken)));
    assert!(matches!(service.oneshot(()).await, Err(Own::Rejected(Rejection::CircuitOpen(_)))));
}

#[tokio::test(start_paused = true)]
async fn requests_need_not_be_clonable() {
    struct Upload(Vec<u8>);
    let sent_once = replay_fn(|_: &Upload| None);
    let inner = service_fn(|upload: Upload| async move { Ok::<_, io::Error>(upload.0.len()) });
    let service = Stack::standard(sent_once).service(inner);
    assert_eq!(service.oneshot(Upload(vec![0; 3])).await.unwrap(), 3);
    let queue = BulkheadLayer::builder().queue(8, TOTAL).build().unwrap();
    let service = Stack::new().total_timeout(TOTAL).bulkhead(queue).service(inner);
    assert_eq!(service.oneshot(Upload(vec![0; 3])).await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn futures_need_be_neither_unpin_nor_sync_nor_send() {
    let inner = service_fn(|x: u32| async move {
        let (_pinned, local) = (PhantomPinned, std::rc::Rc::new(std::cell::Cell::new(x)));
        tokio::task::yield_now().await;
        Ok::<_, io::Error>(local.get())
    });
    let queue = BulkheadLayer::builder().queue(8, TOTAL).build().unwrap();
    let service = Stack::standard(ReplayClones).bulkhead(queue).service(inner);
    assert_eq!(service.oneshot(7).await.unwrap(), 7);
}

#[tokio::test(start_paused = true)]
async fn all_that_a_stack_makes_shares_its_layers() {
    let stack = Stack::standard(ReplayClones)
        .bulkhead(BulkheadLayer::builder().max_concurrent(1).build().unwrap());
    let hangs = Flaky::new([Step::Hang], || Ok::<_, io::Error>("answer"));
    let (one, other) =
        (stack.clone().service::<_, (), _>(hangs.clone()), stack.service::<_, (), _>(hangs));
    let mut call = Spawned::new(one.oneshot(()));
    assert!(call.poll().is_pending());
    assert_eq!(kind(other.clone().oneshot(()).await), "bulkhead_full");
    drop(call);
    assert_eq!(other.oneshot(()).await.unwrap(), "answer");
}

#[test]
fn an_answer_that_is_there_needs_no_runtime() {
    let queue = BulkheadLayer::builder().queue(8, TOTAL).build().unwrap();
    let inner = || service_fn(|x: u32| async move { Ok::<_, io::Error>(x + 1) });
    let rejecting = Stack::standard(ReplayClones).service(inner());
    let queueing = Stack::standard(ReplayClones).bulkhead(queue).service(inner());
    assert!(matches!(Spawned::new(rejecting.oneshot(1)).poll(), Poll::Ready(Ok(2))));
    assert!(matches!(Spawned::new(queueing.oneshot(1)).poll(), Poll::Ready(Ok(2))));
}

#[test]
fn an_unfilled_slot_costs_nothing() {
    type Inner = Flaky<(), Failure>;
    let inner: Inner = Flaky::new([], || Ok(()));
    let bare: CallSpan<Inner> = Stack::new().layer(inner.clone());
    // The name of the stack, its numbers and the classifier are shared.
    let span = size_of::<usize>();
    assert_eq!(size_of_val(&bare), size_of::<Inner>() + span);
    let by_hand = TimeoutLayer::new(TOTAL).layer(inner.clone());
    let stacked = Stack::new().attempt_timeout(TOTAL).layer(inner.clone());
    assert_eq!(size_of_val(&stacked), size_of_val(&by_hand) + span);
    let _: Inner = bare.into_inner();
    let _: buttress::timeout::Timeout<Inner, _> = stacked.into_inner();
}

// Errors.

#[derive(Debug, thiserror::Error)]
#[error("the order was not placed")]
struct NotPlaced(#[source] io::Error);

#[derive(Debug, thiserror::Error)]
#[error("wrapped")]
struct Wrapped(#[source] BoxError);

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> Vec<&'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source()).collect()
}

#[tokio::test(start_paused = true)]
async fn the_cause_is_reached_through_six_layers() {
    let inner = service_fn(|()| async { Err::<(), _>(NotPlaced(broken())) });
    let error = Stack::standard(ReplayClones).service(inner).oneshot(()).await.unwrap_err();
    let texts: Vec<_> = chain(&error).iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["the order was not placed", "broken"]);
    assert!(matches!(error, Error::Service(NotPlaced(_))));
}

#[tokio::test(start_paused = true)]
async fn the_cause_is_reached_through_six_layers_and_towers_own_between_them() {
    let breaker = breaker(1);
    let inner = service_fn(|()| async { Err::<(), BoxError>(NotPlaced(broken()).into()) });
    let mut service = ServiceBuilder::new()
        .layer(TimeoutLayer::new(Duration::from_secs(5)).including_readiness())
        .timeout(Duration::from_secs(5))
        .layer(RetryLayer::builder(ReplayClones).retries(0).build().unwrap())
        .buffer(8)
        .layer(BulkheadLayer::default())
        .concurrency_limit(8)
        .layer(BulkheadLayer::builder().queue(8, TOTAL).build().unwrap())
        .map_err(|error: BoxError| BoxError::from(Wrapped(error)))
        .layer(breaker)
        .timeout(Duration::from_secs(5))
        .layer(TimeoutLayer::new(TOTAL))
        .service(inner);
    let error = service.ready().await.unwrap().call(()).await.unwrap_err();
    let texts: Vec<_> = chain(error.as_ref()).iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["wrapped", "the order was not placed", "broken"]);
    assert!(error.rejection().is_none());

    // A rejection is found again, with all its properties.
    let error = service.ready().await.unwrap().call(()).await.unwrap_err();
    let texts: Vec<_> = chain(error.as_ref()).iter().map(ToString::to_string).collect();
    let [wrapped, rejected, open] = &texts[..] else { panic!("{texts:?}") };
    assert_eq!(wrapped, "wrapped");
    assert_eq!(rejected, open);
    assert!(open.starts_with("circuit_breaker: the circuit is open, retry in 3"), "{open}");
    let Some(Rejection::CircuitOpen(open)) = error.rejection() else { panic!("{error:?}") };
    assert!(open.retry_after().is_some());
}

// The explanation.

#[test]
fn explain_names_what_the_breaker_does_not_see() {
    let lines = Stack::standard(ReplayClones).explain().to_string();
    for line in [
        "is a failure if nobody had a response for 10s and it ran longer than responses take",
        "(before the first response, if it ran for 2s, or a server's limit)",
        "a hang of some calls, if only callers in a hurry meet it",
        "a hang after the head of a response, if readers leave before a limit of the body",
        "a hang whose callers all leave before a call runs long",
        "a hang from the start whose callers all leave within 2s, or a server's limit",
        "a dependency that never becomes ready",
        "a hang with fewer than 20 calls in its window, or pauses of 10s between calls",
        "takes for a hang: a slow route that only callers in a hurry call for 10s",
    ] {
        assert!(lines.contains(line), "{line}\n{lines}");
    }
    let breaker = CircuitBreakerLayer::builder;
    let after = breaker().abandoned_after(Duration::from_millis(100)).build().unwrap();
    let lines = Stack::new().circuit_breaker(after).explain().to_string();
    let at_once = "is a failure at once after 100ms, and sooner if nobody had a response";
    assert!(lines.contains(at_once), "{lines}");
    let in_a_row = breaker().consecutive_failures(5);
    let lines = Stack::new().circuit_breaker(in_a_row.clone().build().unwrap()).explain();
    let few = "fewer than 20 calls in its window and fewer than 5 in a row, or pauses";
    assert!(lines.to_string().contains(few), "{lines}");
    let in_a_row = in_a_row.without_failure_rate().keyed_fn(|_: &()| ()).build().unwrap();
    let lines = Stack::new().circuit_breaker(in_a_row).explain().to_string();
    assert!(lines.contains("a hang with fewer than 5 in a row, or pauses"), "{lines}");
    assert!(!lines.contains("never becomes ready"), "{lines}");
    let ignores = breaker().abandoned_after(Duration::MAX).build().unwrap();
    let lines = Stack::new().circuit_breaker(ignores).explain().to_string();
    assert!(lines.contains("the breaker counts no call that its caller cuts"), "{lines}");
    assert!(!Stack::new().attempt_timeout(TOTAL).explain().to_string().contains("breaker"));
}

#[test]
fn the_standard_stack_has_nothing_to_warn_of() {
    let explanation = Stack::standard(ReplayClones).explain();
    assert_eq!(explanation.warnings(), []);
    assert_eq!(explanation.worst_time(), Some(Duration::from_secs(5)));
    assert_eq!(explanation.most_calls(), 4);
    let text = explanation.to_string();
    let order = ["total timeout", "retry", "bulkhead", "circuit breaker", "attempt timeout"];
    let at: Vec<_> = order.iter().map(|layer| text.find(layer).expect(layer)).collect();
    assert!(at.is_sorted(), "{text}");
    assert!(!text.contains("warning"));
}

/// Lists the rules that a stack breaks.
macro_rules! rules {
    ($stack:expr) => {
        $stack.explain().warnings().iter().map(|warning| warning.rule()).collect::<Vec<_>>()
    };
}

#[test]
fn each_rule_warns_of_what_it_is_for() {
    let standard = || Stack::standard(ReplayClones);
    let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
    let without_budget = RetryLayer::builder(ReplayClones).without_budget().build().unwrap();
    let in_step = Backoff::constant(second / 10).jitter(Jitter::None).build().unwrap();
    let in_step = RetryLayer::builder(ReplayClones).backoff(in_step).build().unwrap();
    let breaker = CircuitBreakerLayer::builder;
    let queue = BulkheadLayer::builder().queue(8, minute).build().unwrap();
    let backpressure = BulkheadLayer::builder().backpressure().build().unwrap();
    let pend = || breaker().pend().build().unwrap();

    assert_eq!(rules!(Stack::new()), ["no_timeout"]);
    assert_eq!(rules!(Stack::new().attempt_timeout(Duration::ZERO)), ["zero_timeout"]);
    assert_eq!(
        rules!(Stack::new().total_timeout(second).attempt_timeout(second)),
        ["attempt_not_within_total"]
    );
    assert_eq!(rules!(standard().retry(without_budget)), ["no_budget"]);
    assert_eq!(rules!(standard().retry(in_step)), ["no_jitter"]);
    assert_eq!(
        rules!(Stack::new().total_timeout(minute).retry(RetryLayer::new(ReplayClones))),
        ["no_attempt_timeout"]
    );
    assert_eq!(rules!(standard().attempt_timeout(second * 3)), ["attempts_do_not_fit"]);
    assert_eq!(
        rules!(standard().circuit_breaker(breaker().time_window(second).build().unwrap())),
        ["window_shorter_than_timeout"]
    );
    assert_eq!(
        rules!(standard().circuit_breaker(breaker().slow_calls(second * 2, 0.5).build().unwrap())),
        ["slow_after_timeout"]
    );
    assert_eq!(
        rules!(standard().circuit_breaker(breaker().probe_lease(second).build().unwrap())),
        ["lease_shorter_than_timeout"]
    );
    assert_eq!(
        rules!(Stack::new().total_timeout(second).circuit_breaker(CircuitBreakerLayer::new())),
        [""; 0]
    );
    let ignores = breaker().abandoned_after(Duration::MAX).build().unwrap();
    assert_eq!(
        rules!(Stack::new().total_timeout(second).circuit_breaker(ignores)),
        ["hangs_are_not_counted"]
    );
    assert_eq!(rules!(standard().bulkhead(queue)), ["queue_longer_than_total"]);
    assert_eq!(rules!(standard().bulkhead(backpressure)), ["unseen_readiness"]);
    let endpoint = Stack::new().attempt_timeout(second);
    assert_eq!(rules!(endpoint.clone().circuit_breaker(pend())), ["pend_without_balancer"]);
    assert_eq!(rules!(endpoint.clone().circuit_breaker(pend()).under_balancer()), [""; 0]);
    assert_eq!(
        rules!(endpoint.circuit_breaker(CircuitBreakerLayer::new()).under_balancer()),
        ["reject_under_balancer"]
    );
    assert_eq!(
        rules!(standard().circuit_breaker(pend()).under_balancer()),
        ["unseen_readiness", "total_under_balancer"]
    );
}

#[test]
fn what_depends_on_the_request_is_not_guessed() {
    let per_request = TimeoutLayer::per_request_fn(|(): &()| TOTAL);
    let stack = Stack::new().total_timeout(per_request).retry(RetryLayer::new(ReplayClones));
    let explanation = stack.attempt_timeout(TOTAL).explain();
    assert_eq!(explanation.worst_time(), None);
    assert_eq!(explanation.warnings(), []);
    assert!(explanation.to_string().contains("per request"));
}

#[test]
fn the_longest_call_adds_up() {
    let second = Duration::from_secs(1);
    let backoff = Backoff::constant(second).build().unwrap();
    let retry = RetryLayer::builder(ReplayClones).retries(2).backoff(backoff).build().unwrap();
    let queue = BulkheadLayer::builder().queue(8, second * 10).build().unwrap();
    let stack = Stack::new().retry(retry).attempt_timeout(second * 100);
    // There are three attempts, two pauses of the maximum that a server may request with jitter,
    // and two waits for readiness.
    assert_eq!(stack.explain().worst_time(), Some(second * (3 * 100 + 2 * 3 + 2)));
    // A call that has got its slot from a queue waits for readiness without a limit.
    assert_eq!(stack.bulkhead(queue).explain().worst_time(), None);
}

#[test]
fn a_time_without_limit_is_not_a_number() {
    let unlimited = RetryLayer::builder(ReplayClones).readiness_wait(Duration::MAX);
    let queue = BulkheadLayer::builder().queue(8, Duration::MAX).build().unwrap();
    for explanation in [
        Stack::new().retry(unlimited.build().unwrap()).attempt_timeout(TOTAL).explain(),
        Stack::new().total_timeout(Duration::MAX).explain(),
        Stack::new().bulkhead(queue).attempt_timeout(TOTAL).explain(),
    ] {
        assert_eq!(explanation.worst_time(), None);
        let text = explanation.to_string();
        assert!(text.contains("no bound is known") && !text.contains("18446744073709551615"));
    }
}

/// Calls the stack's service until its breaker is open.
async fn trip<S>(mut service: S)
where
    S: Service<(), Response = (), Error = Failure>,
{
    for _ in 0..3 {
        let _ = service.ready().await.unwrap().call(()).await;
    }
    assert_eq!(kind(service.ready().await.unwrap().call(()).await), "circuit_open");
}

#[tokio::test(start_paused = true)]
async fn a_fresh_stack_shares_no_state() {
    let failing = || Flaky::<(), Failure>::new([], || Err(Error::Service(broken())));
    let fine = || Flaky::<(), Failure>::new([], || Ok(()));
    let budget = Budget::builder().floor(2).build().unwrap();
    let retry = RetryLayer::builder(ReplayClones).retries(1).budget(budget.clone());
    let (breaker, bulkhead) = (breaker(3), BulkheadLayer::default());
    let (state, slots) = (breaker.handle(), bulkhead.handle());
    slots.resize(1).unwrap();
    let stack = Stack::new()
        .total_timeout(Duration::from_secs(60))
        .retry(Some(retry.build().unwrap()))
        .bulkhead(bulkhead)
        .circuit_breaker(breaker)
        .attempt_timeout(ATTEMPT);
    let (clone, fresh) = (stack.clone(), stack.fresh());
    trip(stack.layer(failing())).await;
    assert_eq!(state.state(), State::Open);
    assert_eq!(kind(clone.layer(fine()).oneshot(()).await), "circuit_open");
    let balance = budget.balance();
    assert!(balance < 1.0, "{balance}");

    fresh.layer(fine()).oneshot(()).await.unwrap();
    // The fresh breaker has counted no failure, the budget is full, and its slot is free.
    let other =
        Flaky::<(), Failure>::new([Step::Respond(Err(Error::Service(broken())))], || Ok(()));
    let script = other.handle();
    fresh.layer(other).oneshot(()).await.unwrap();
    assert_eq!((script.calls(), budget.balance()), (2, balance));

    let mut held =
        Spawned::new(fresh.layer(Flaky::<(), Failure>::new([Step::Hang], || Ok(()))).oneshot(()));
    assert!(held.poll().is_pending());
    assert_eq!(slots.in_flight(), 0);
    assert_eq!(kind(fresh.layer(fine()).oneshot(()).await), "bulkhead_full", "the current limit");
    assert!(fresh.fresh().layer(fine()).oneshot(()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_fresh_stack_has_keys_and_a_queue_of_its_own() {
    let keyed = CircuitBreakerLayer::builder().consecutive_failures(3).keyed_fn(|(): &()| 1);
    let keyed = keyed.build().unwrap();
    let queued = BulkheadLayer::builder().max_concurrent(1).queue(1, TOTAL).build().unwrap();
    let stack = Stack::new().bulkhead(queued).circuit_breaker(keyed.clone());
    let throttle = Budget::throttle().max_tokens(4).build().unwrap();
    let retry = RetryLayer::builder(ReplayClones).retries(1).budget(throttle.clone());
    let stack = stack.retry(retry.build().unwrap());
    let fresh = stack.fresh();
    trip(stack.layer(Flaky::<(), Failure>::new([], || Err(Error::Service(broken()))))).await;
    assert!(throttle.balance() < 4.0 && keyed.keys() == 1);
    fresh.layer(Flaky::<(), Failure>::new([], || Ok(()))).oneshot(()).await.unwrap();
    let debug = format!("{fresh:?}");
    assert!(debug.contains("balance: 4.0"), "{debug}");
}
