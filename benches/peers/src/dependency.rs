//! The dependency of the facts: a service that succeeds or fails on command, and counts calls.

use std::fmt::Display;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tower::{Service, ServiceExt};

use crate::backend::{Request, Subject, Unavailable};

pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

#[derive(Default)]
struct Record {
    failing: AtomicBool,
    /// The duration of a call, in milliseconds.
    millis: AtomicU64,
    running: AtomicU64,
    most_at_once: AtomicU64,
    /// The number of each request, and the time of its arrival.
    calls: Mutex<Vec<(u64, Instant)>>,
}

/// A dependency with the error type `E` that the layers above require. Clones share its state.
pub struct Dependency<E = Unavailable> {
    record: Arc<Record>,
    error: PhantomData<fn() -> E>,
}

impl<E> Clone for Dependency<E> {
    fn clone(&self) -> Self {
        Self { record: Arc::clone(&self.record), error: PhantomData }
    }
}

impl<E> Dependency<E> {
    pub fn new() -> Self {
        Self { record: Arc::default(), error: PhantomData }
    }

    /// Returns the same dependency for layers that require another error type.
    pub fn seen_as<F>(&self) -> Dependency<F> {
        Dependency { record: Arc::clone(&self.record), error: PhantomData }
    }

    pub fn fails(&self, failing: bool) {
        self.record.failing.store(failing, SeqCst);
    }

    pub fn answers_after(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.record.millis.store(millis, SeqCst);
    }

    /// Makes calls take an hour, which is longer than any fact takes.
    pub fn hangs(&self) {
        self.answers_after(Duration::from_secs(3_600));
    }

    /// Returns the number of calls that have reached it.
    pub fn calls(&self) -> usize {
        self.record.calls.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub fn most_at_once(&self) -> u64 {
        self.record.most_at_once.load(SeqCst)
    }

    /// Returns the delay between the first and the second try of each request.
    pub fn first_delays(&self) -> Vec<Duration> {
        let calls = self.record.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let mut calls = calls.clone();
        calls.sort();
        calls
            .windows(2)
            .filter(|pair| pair[0].0 == pair[1].0)
            .map(|pair| pair[1].1 - pair[0].1)
            .collect()
    }
}

impl<E: From<Unavailable> + 'static> Dependency<E> {
    /// Responds to a call.
    ///
    /// A call is counted only when its future runs, because a breaker may drop the future.
    pub fn answer(&self, request: Request) -> BoxFuture<Result<u64, E>> {
        let record = Arc::clone(&self.record);
        Box::pin(async move {
            let calls = record.calls.lock();
            calls.unwrap_or_else(PoisonError::into_inner).push((request.0, Instant::now()));
            let running = record.running.fetch_add(1, SeqCst) + 1;
            record.most_at_once.fetch_max(running, SeqCst);
            let failing = record.failing.load(SeqCst);
            let millis = record.millis.load(SeqCst);
            if millis > 0 {
                tokio::time::sleep(Duration::from_millis(millis)).await;
            }
            record.running.fetch_sub(1, SeqCst);
            if failing { Err(E::from(Unavailable)) } else { Ok(request.0) }
        })
    }
}

impl<E: From<Unavailable> + 'static> Service<Request> for Dependency<E> {
    type Response = u64;
    type Error = E;
    type Future = BoxFuture<Result<u64, E>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        self.answer(request)
    }
}

/// One side of a fact: the layers of one crate over a dependency.
///
/// `call` returns the response, or the text of the error.
pub struct Side {
    pub dependency: Dependency,
    call: Box<dyn Fn(Request) -> BoxFuture<Result<u64, String>>>,
}

impl Side {
    /// Creates a side from a layered service. Every call uses a clone of it.
    pub fn of<S>(dependency: &Dependency, service: S) -> Self
    where
        S: Subject + Service<Request, Error: Display, Future: Send>,
    {
        Self::from_fn(dependency, move |request| service.clone().oneshot(request))
    }

    /// Creates a side from a closure, for the crates that wrap a future and are not tower layers.
    pub fn from_fn<F, E>(dependency: &Dependency, call: impl Fn(Request) -> F + 'static) -> Self
    where
        F: Future<Output = Result<u64, E>> + Send + 'static,
        E: Display,
    {
        let call = move |request| -> BoxFuture<Result<u64, String>> {
            let answer = call(request);
            Box::pin(async move { answer.await.map_err(|error| error.to_string()) })
        };
        Self { dependency: dependency.clone(), call: Box::new(call) }
    }

    pub fn call(&self, id: u64) -> BoxFuture<Result<u64, String>> {
        (self.call)(Request(id))
    }
}
