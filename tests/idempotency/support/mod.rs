//! A request, a service that counts its calls, and a layer over a scripted store.

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
        ReadRequest, RequestKey, Run, Scoped, SingleTenant,
    },
    keep::KeepClones,
};
use futures::future::BoxFuture;
use tokio::time::sleep;
use tower::{Layer, Service, ServiceExt};

pub(crate) use self::store::{Fault, Scripted, Step};

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) type Failure = Error<&'static str>;
/// The result of a call: the number of its run.
pub(crate) type Answer = Result<u64, Failure>;

/// A request, and the run that handles it.
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

/// The policy that finds the key of an [`Ask`] and reads the request.
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
            "incomplete" => return Err(IdempotencyReason::BodyIncomplete),
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
    IdempotencyBuilder<Scripted<u64>, Asks, Scoped<SingleTenant>, Asks, KeepClones>;
pub(crate) type Guarded = IdempotencyLayer<Scripted<u64>, Asks, SingleTenant, Asks, KeepClones>;

/// Returns a builder of a layer over this store, with the defaults.
pub(crate) fn over(store: &Scripted<u64>) -> Builder {
    IdempotencyLayer::builder(store.clone(), Asks, Asks, KeepClones).single_tenant()
}

type ByTenant = FindScopeFn<fn(&Ask) -> Option<&'static str>>;

/// Does the same, with separate keys for each tenant.
pub(crate) fn scoped(
    store: &Scripted<u64>,
) -> IdempotencyBuilder<Scripted<u64>, Asks, Scoped<ByTenant>, Asks, KeepClones> {
    // The tenant `nobody` stands for a caller that was not authenticated.
    let tenant: fn(&Ask) -> Option<&'static str> =
        |ask| Some(ask.tenant).filter(|tenant| *tenant != "nobody");
    IdempotencyLayer::builder(store.clone(), Asks, Asks, KeepClones).scope_fn(tenant)
}

/// Creates a layer with the defaults, and its store.
pub(crate) fn guard() -> (Guarded, Scripted<u64>) {
    let store = Scripted::new();
    (over(&store).build().unwrap(), store)
}

type Act = dyn Fn(Ask, u64) -> BoxFuture<'static, Answer> + Send + Sync;

/// A scripted service that counts its runs. A run returns its number, from 1.
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

    /// Creates a worker that responds at once.
    pub(crate) fn quick() -> Self {
        Self::new(|_, run| async move { Ok(run) })
    }

    /// Creates a worker that responds after this time.
    pub(crate) fn taking(long: Duration) -> Self {
        Self::new(move |_, run| async move {
            sleep(long).await;
            Ok(run)
        })
    }

    /// Creates a worker that fails at once.
    pub(crate) fn failing(error: Failure) -> Self {
        Self::new(move |_, _| {
            let error = error.clone();
            async move { Err(error) }
        })
    }

    /// Returns the number of runs.
    pub(crate) fn runs(&self) -> u64 {
        self.runs.load(Ordering::SeqCst)
    }

    /// Returns the number of calls that have neither completed nor been dropped.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::SeqCst)
    }
}

/// A value that counts down when it is dropped.
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

/// Makes one call of a service behind a layer.
pub(crate) async fn call<L, S>(layer: &L, service: &S, ask: Ask) -> Answer
where
    S: Clone,
    L: Layer<S, Service: Service<Ask, Response = u64, Error = Failure>>,
{
    layer.layer(service.clone()).oneshot(ask).await
}

/// Does the same in its own task.
pub(crate) fn spawn<L, S>(layer: &L, service: &S, ask: Ask) -> tokio::task::JoinHandle<Answer>
where
    S: Clone,
    L: Layer<S>,
    L::Service: Service<Ask, Response = u64, Error = Failure, Future: Send> + Send + 'static,
{
    tokio::spawn(layer.layer(service.clone()).oneshot(ask))
}

/// Returns the reason of a rejection by the layer, or `None`.
pub(crate) fn rejected(answer: &Answer) -> Option<IdempotencyReason> {
    match answer {
        Err(Error::Rejected(Rejection::Idempotency(rejected))) => Some(rejected.reason()),
        _ => None,
    }
}

/// Returns the time after which the layer asks to retry.
pub(crate) fn retry_after(answer: &Answer) -> Option<Duration> {
    match answer {
        Err(Error::Rejected(rejection)) => rejection.retry_after(),
        _ => None,
    }
}

/// Lets all tasks run that do not need time to pass.
pub(crate) async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// Checks that no run leaves anything behind after this time, in which its lease ends.
pub(crate) async fn nothing_is_left(guard: Guarded, store: &Scripted<u64>, after: Duration) {
    assert_eq!(guard.handle().in_flight(), 0, "a run is counted that is over");
    drop(guard);
    sleep(after).await;
    settle().await;
    assert_eq!(store.handles(), 1, "something in the background still has the store");
}
