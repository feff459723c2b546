//! Tests of the numbers of attempts when a retry is around a stack that retries.

use std::{
    future::{Future, pending},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
    time::Duration,
};

use buttress::{
    Classify, Deadline, Error, Fault, Outcome, RetryHint, Stack,
    bulkhead::BulkheadLayer,
    context::Attempt,
    retry::{Backoff, Jitter, ReplayClones, RetryBuilder, RetryLayer},
    telemetry::{Event, Observer, Registry, Source},
    timeout::TimeoutLayer,
};
use futures::{FutureExt, future::join};
use tokio::time::timeout;
use tower::{Layer, Service, ServiceExt, service_fn, util::BoxCloneService};

type Failure = Error<&'static str>;
type Call = BoxCloneService<(), (), Failure>;

const SECOND: Duration = Duration::from_secs(1);

/// The numbers of the attempts that a service has seen.
#[derive(Clone, Default)]
struct Numbers(Arc<Mutex<Vec<u32>>>);

impl Numbers {
    fn note(&self) {
        self.0.lock().unwrap().push(number());
    }

    fn take(&self) -> Vec<u32> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    /// Returns a service that notes the number of each attempt and fails.
    fn failing(&self) -> Call {
        self.service(|_| async { Err(Error::Service("broken")) })
    }

    /// Returns a service that notes the number of each attempt. `call` gets the number.
    fn service<F>(&self, call: impl Fn(u32) -> F + Clone + Send + 'static) -> Call
    where
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let numbers = self.clone();
        BoxCloneService::new(service_fn(move |()| {
            numbers.note();
            let call = call(number());
            async move {
                let made = number();
                let result = call.await;
                assert_eq!(number(), made, "it is the same in each poll");
                result
            }
        }))
    }
}

fn number() -> u32 {
    Attempt::current().map_or(0, |attempt| attempt.number())
}

fn builder(retries: u32) -> RetryBuilder<ReplayClones> {
    RetryLayer::builder(ReplayClones).retries(retries)
}

fn retrying(retries: u32, inner: Call) -> Call {
    BoxCloneService::new(builder(retries).build().unwrap().layer(inner))
}

#[tokio::test(start_paused = true)]
async fn a_retry_within_a_retry_continues_its_numbers() {
    let (inner, outer) = (Numbers::default(), Numbers::default());
    let retried = retrying(2, inner.failing());
    let between = outer.service(move |_| retried.clone().oneshot(()));
    assert!(retrying(2, between).oneshot(()).await.is_err());
    assert_eq!(inner.take(), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(outer.take(), [1, 4, 7]);
    assert_eq!(Attempt::current(), None);

    let three = retrying(1, retrying(1, retrying(1, inner.failing())));
    assert!(three.oneshot(()).await.is_err());
    assert_eq!(inner.take(), [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[tokio::test(start_paused = true)]
async fn a_stack_without_a_retry_passes_the_numbers_on() {
    let numbers = Numbers::default();
    for registry in [None, Some(Registry::new())] {
        let stack = Stack::new().bulkhead(BulkheadLayer::default());
        let stack = match &registry {
            Some(registry) => stack.name("between").register(registry),
            None => stack,
        };
        let between = stack.layer(retrying(1, numbers.failing()));
        assert!(retrying(1, BoxCloneService::new(between)).oneshot(()).await.is_err());
        assert_eq!(numbers.take(), [1, 2, 3, 4]);
    }
}

/// The numbers of attempts in the events "retries exhausted".
#[derive(Clone, Default)]
struct Exhausted(Arc<Mutex<Vec<u32>>>);

impl Observer for Exhausted {
    fn on_event(&self, _: Source<'_>, event: &Event<'_>) {
        if let Event::RetriesExhausted { attempts, .. } = event {
            self.0.lock().unwrap().push(*attempts);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_layer_counts_its_own_attempts() {
    let registry = Registry::new();
    let exhausted = Exhausted::default();
    registry.observe(exhausted.clone());
    let stack = |retries| {
        let retry = builder(retries).build().unwrap();
        Stack::new().retry(retry).register(&registry)
    };
    let numbers = Numbers::default();
    let service = stack(1).layer(stack(2).layer(numbers.failing()));
    assert!(service.oneshot(()).await.is_err());
    assert_eq!(numbers.take().len(), 6);
    assert_eq!(*exhausted.0.lock().unwrap(), [3, 3, 2]);
}

#[tokio::test(start_paused = true)]
async fn calls_within_one_attempt_begin_with_its_number_and_the_next_is_after_both() {
    let (a, b) = (Numbers::default(), Numbers::default());
    let (call_a, call_b) = (retrying(2, a.failing()), retrying(1, b.failing()));
    let both = service_fn(move |()| {
        let calls = join(call_b.clone().oneshot(()), call_a.clone().oneshot(()));
        calls.map(|(result, _)| result)
    });
    assert!(retrying(1, BoxCloneService::new(both)).oneshot(()).await.is_err());
    assert_eq!(a.take(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(b.take(), [1, 2, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn numbers_that_two_calls_use_in_one_poll_are_all_used() {
    let numbers = Numbers::default();
    let paused = |retries, pause| {
        let backoff = Backoff::constant(pause).jitter(Jitter::None).build().unwrap();
        builder(retries).backoff(backoff).build().unwrap().layer(numbers.failing())
    };
    // Both send in the same poll: the first its attempt 3, and the second its attempt 2.
    let (first, second) = (paused(2, SECOND), paused(1, SECOND * 2));
    let second = retrying(0, BoxCloneService::new(second));
    let outer = Numbers::default();
    let both = outer.service(move |_| {
        join(first.clone().oneshot(()), second.clone().oneshot(())).map(|(result, _)| result)
    });
    assert!(retrying(1, both).oneshot(()).await.is_err());
    assert_eq!(outer.take(), [1, 4]);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_goes_on_after_a_call_within_keeps_its_numbers() {
    let (inner, outer) = (Numbers::default(), Numbers::default());
    let call = retrying(1, inner.failing());
    // It fails in a later poll than the call within.
    let slow = outer.service(move |_| {
        let call = call.clone().oneshot(());
        async move {
            let result = call.await;
            tokio::time::sleep(SECOND).await;
            result
        }
    });
    assert!(retrying(2, slow).oneshot(()).await.is_err());
    assert_eq!(outer.take(), [1, 3, 5]);
    assert_eq!(inner.take(), [1, 2, 3, 4, 5, 6]);
}

#[tokio::test(start_paused = true)]
async fn a_call_within_that_is_cancelled_has_used_its_numbers() {
    let numbers = Numbers::default();
    let hangs = numbers.service(|number| async move {
        if number == 2 {
            pending::<()>().await;
        }
        Err(Error::Service("broken"))
    });
    let limited = TimeoutLayer::new(SECOND).layer(retrying(2, hangs));
    assert!(retrying(1, BoxCloneService::new(limited)).oneshot(()).await.is_err());
    assert_eq!(numbers.take(), [1, 2, 3, 4, 5]);

    // A retry that was only planned has used none.
    let pause = Backoff::constant(SECOND * 9).jitter(Jitter::None).build().unwrap();
    let paused = builder(1).backoff(pause).build().unwrap().layer(numbers.failing());
    let dropped = service_fn(move |()| {
        let call = timeout(SECOND, paused.clone().oneshot(()));
        call.map(|result| result.unwrap_or(Err(Error::Service("dropped"))))
    });
    assert!(retrying(1, BoxCloneService::new(dropped)).oneshot(()).await.is_err());
    assert_eq!(numbers.take(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_call_within_that_panics_has_used_its_numbers() {
    let numbers = Numbers::default();
    let panics = numbers.service(|number| async move {
        assert!(number % 2 == 1, "every second attempt panics");
        Err(Error::Service("broken"))
    });
    for depth in [1, 2] {
        // The innermost retry is the one whose attempt panics.
        let retried = (0..depth).fold(panics.clone(), |inner, _| retrying(1, inner));
        let caught = service_fn(move |()| {
            let call = AssertUnwindSafe(retried.clone().oneshot(())).catch_unwind();
            call.map(|result| result.unwrap_or(Err(Error::Service("panicked"))))
        });
        assert!(retrying(1, BoxCloneService::new(caught)).oneshot(()).await.is_err());
        assert_eq!(numbers.take(), [1, 2, 3, 4]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_detached_or_in_another_task_has_its_own_numbers() {
    for spawned in [false, true] {
        let (inner, outer) = (Numbers::default(), Numbers::default());
        let call = retrying(1, inner.failing());
        let service = outer.service(move |_| {
            let call = call.clone();
            async move {
                let call = async move { call.oneshot(()).await };
                if spawned {
                    tokio::spawn(call).await.unwrap()
                } else {
                    Deadline::detached(call).await
                }
            }
        });
        assert!(retrying(1, service).oneshot(()).await.is_err());
        assert_eq!(inner.take(), [1, 2, 1, 2]);
        assert_eq!(outer.take(), [1, 2]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_moves_to_another_task_keeps_its_numbers() {
    let numbers = Numbers::default();
    let failing = {
        let numbers = numbers.clone();
        service_fn(move |()| {
            numbers.note();
            async { Err::<(), _>(Error::Service("broken")) }
        })
    };
    let call = retrying(1, BoxCloneService::new(failing));
    let service = service_fn(move |()| {
        let call = tokio::spawn(call.clone().call(()));
        async move { call.await.unwrap() }
    });
    assert!(retrying(1, BoxCloneService::new(service)).oneshot(()).await.is_err());
    // The retry around cannot see the numbers that the other task has used.
    assert_eq!(numbers.take(), [1, 2, 2, 3]);
}

/// A classifier by which some errors say that the call was not processed.
#[derive(Clone, Copy)]
struct Unprocessed;

impl Classify<(), Failure> for Unprocessed {
    fn classify(&self, result: Result<&(), &Failure>) -> Outcome {
        match result {
            Ok(()) => Outcome::Success,
            Err(_) => Outcome::Failure(Fault::Transient),
        }
    }

    fn hint(&self, result: Result<&(), &Failure>) -> RetryHint {
        match result {
            Err(Error::Service("not processed")) => RetryHint::Unprocessed,
            _ => RetryHint::Unstated,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_resent_has_the_last_number_again() {
    let numbers = Numbers::default();
    let service = numbers.service(|number| async move {
        Err(Error::Service(if number == 2 { "not processed" } else { "broken" }))
    });
    let retried = builder(2).classify(Unprocessed).build().unwrap();
    let service = retried.layer(retrying(1, service));
    assert!(service.oneshot(()).await.is_err());
    // The resend has the number that was not processed, and that is so once more.
    assert_eq!(numbers.take(), [1, 2, 2, 3, 4, 5, 6, 7]);
}
