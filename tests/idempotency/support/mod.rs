//! A request, a service that counts what it is asked for, and a guard over a scripted store.

mod store;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use buttress::{
    Error, Rejection,
    error::IdempotencyReason,
    idempotency::{
        Digests, FindKey, FindScopeFn, IdempotencyBuilder, IdempotencyLayer, InvalidKey, Key,
        ReadRequest, RecordClones, RequestKey, Run, Scoped, SingleTenant,
    },
};
use futures::future::BoxFuture;
use tokio::time::sleep;
use tower::{Layer, Service, ServiceExt};

pub(crate) use self::store::{Fault, Scripted, Step};

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) type Failure = Error<&'static str>;
/// The number of the run that gave it.
pub(crate) type Answer = Result<u64, Failure>;

/// A request, and the run that it was handed over to.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) key: Option<String>,
    pub(crate) tenant: &'static str,
    pub(crate) route: &'static str,
    pub(crate) body: &'static str,
    pub(crate) run: Option<Run>,
}

pub(crate) fn ask(key: &str) -> Ask {
    Ask { key: Some(key.to_owned()), tenant: "a", route: "/", body: "42", run: None }
}

/// Finds the key of an [`Ask`], and reads it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asks;

impl FindKey<Ask> for Asks {
    fn find_key(&self, ask: &Ask) -> Result<RequestKey, InvalidKey> {
        match &ask.key {
            Some(key) if key == "unguarded" => Ok(RequestKey::Unguarded),
            Some(key) if key == "panic in find_key" => panic!("find_key"),
            Some(key) => Ok(RequestKey::Key(Key::parse(key)?)),
            None => Ok(RequestKey::Missing),
        }
    }

    fn operation(&self, ask: &Ask, add: &mut dyn FnMut(&[u8])) {
        add(ask.route.as_bytes());
    }
}

impl ReadRequest<Ask> for Asks {
    type Request = Ask;

    async fn read(
        &self,
        ask: Ask,
        mut digests: Digests,
    ) -> Result<(Ask, Digests), IdempotencyReason> {
        match ask.body {
            "panic in read" => panic!("read"),
            "too large" => return Err(IdempotencyReason::BodyTooLarge),
            "slow" => sleep(SECOND).await,
            _ => {}
        }
        digests.part(ask.body);
        Ok((ask, digests))
    }

    fn pass(&self, ask: Ask) -> Ask {
        ask
    }

    fn hand_over(&self, ask: &mut Ask, run: &Run) {
        if ask.body == "panic in hand_over" {
            panic!("hand_over");
        }
        ask.run = Some(run.clone());
    }
}

pub(crate) type Builder =
    IdempotencyBuilder<Scripted<u64>, Asks, Scoped<SingleTenant>, Asks, RecordClones>;
pub(crate) type Guarded = IdempotencyLayer<Scripted<u64>, Asks, SingleTenant, Asks, RecordClones>;

/// A guard over a store, with the defaults.
pub(crate) fn over(store: &Scripted<u64>) -> Builder {
    IdempotencyLayer::builder(store.clone(), Asks, Asks, RecordClones).single_tenant()
}

type ByTenant = FindScopeFn<fn(&Ask) -> Option<&'static str>>;

/// The same, where each tenant has keys of its own.
pub(crate) fn scoped(
    store: &Scripted<u64>,
) -> IdempotencyBuilder<Scripted<u64>, Asks, Scoped<ByTenant>, Asks, RecordClones> {
    // Who was not authenticated.
    let tenant: fn(&Ask) -> Option<&'static str> =
        |ask| Some(ask.tenant).filter(|tenant| *tenant != "nobody");
    IdempotencyLayer::builder(store.clone(), Asks, Asks, RecordClones).scope_fn(tenant)
}

/// A guard with the defaults, and its store.
pub(crate) fn guard() -> (Guarded, Scripted<u64>) {
    let store = Scripted::new();
    (over(&store).build().unwrap(), store)
}

type Act = dyn Fn(Ask, u64) -> BoxFuture<'static, Answer> + Send + Sync;

/// Does what it is told, and counts: a run answers with its number, from 1.
#[derive(Clone)]
pub(crate) struct Worker {
    act: Arc<Act>,
    runs: Arc<AtomicU64>,
    under_way: Arc<AtomicUsize>,
}

impl Worker {
    pub(crate) fn new<F>(act: impl Fn(Ask, u64) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let act = Arc::new(move |ask, run| Box::pin(act(ask, run)) as _);
        Self { act, runs: Arc::default(), under_way: Arc::default() }
    }

    /// Answers at once.
    pub(crate) fn quick() -> Self {
        Self::new(|_, run| async move { Ok(run) })
    }

    /// Answers after this long.
    pub(crate) fn taking(long: Duration) -> Self {
        Self::new(move |_, run| async move {
            sleep(long).await;
            Ok(run)
        })
    }

    /// Fails at once.
    pub(crate) fn failing(error: Failure) -> Self {
        Self::new(move |_, _| {
            let error = error.clone();
            async move { Err(error) }
        })
    }

    /// How often it was called.
    pub(crate) fn runs(&self) -> u64 {
        self.runs.load(Ordering::SeqCst)
    }

    /// How many calls are neither answered nor dropped.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::SeqCst)
    }
}

/// Counts down when it is dropped.
struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Service<Ask> for Worker {
    type Response = u64;
    type Error = Failure;
    type Future = BoxFuture<'static, Answer>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, ask: Ask) -> Self::Future {
        let run = self.runs.fetch_add(1, Ordering::SeqCst) + 1;
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let under_way = UnderWay(Arc::clone(&self.under_way));
        let work = (self.act)(ask, run);
        Box::pin(async move {
            let answer = work.await;
            drop(under_way);
            answer
        })
    }
}

/// One call of a service behind a layer.
pub(crate) async fn call<L, S>(layer: &L, service: &S, ask: Ask) -> Answer
where
    S: Clone,
    L: Layer<S, Service: Service<Ask, Response = u64, Error = Failure>>,
{
    layer.layer(service.clone()).oneshot(ask).await
}

/// The same, in a task of its own.
pub(crate) fn spawn<L, S>(layer: &L, service: &S, ask: Ask) -> tokio::task::JoinHandle<Answer>
where
    S: Clone,
    L: Layer<S>,
    L::Service: Service<Ask, Response = u64, Error = Failure, Future: Send> + Send + 'static,
{
    tokio::spawn(layer.layer(service.clone()).oneshot(ask))
}

/// Why the guard refused; `None` if it did not.
pub(crate) fn rejected(answer: &Answer) -> Option<IdempotencyReason> {
    match answer {
        Err(Error::Rejected(Rejection::Idempotency(rejected))) => Some(rejected.reason()),
        _ => None,
    }
}

/// When the guard said to come back.
pub(crate) fn retry_after(answer: &Answer) -> Option<Duration> {
    match answer {
        Err(Error::Rejected(rejection)) => rejection.retry_after(),
        _ => None,
    }
}

/// Lets everything happen that needs no time.
pub(crate) async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// That nothing is left of any run once the lease of the default length is over, or a lease that was said.
pub(crate) async fn nothing_is_left(guard: Guarded, store: &Scripted<u64>, after: Duration) {
    assert_eq!(guard.handle().in_flight(), 0, "a run is counted that is over");
    drop(guard);
    sleep(after).await;
    settle().await;
    assert_eq!(store.handles(), 1, "something in the background still has the store");
}
