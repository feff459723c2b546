//! A scripted store in memory that fails, hangs, repeats steps and returns garbage.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use buttress::idempotency::{
    Claim, ClaimOutcome, Completed, Hold, Owner, Resolution, StepOutcome, StorageKey, Store,
    StoreError, StoreUsage, UnknownOperation, store::MemoryStore,
};
use tokio::time::{Instant, sleep};

/// A step of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Claim,
    MarkStarted,
    Renew,
    Checkpoint,
    Complete,
    Release,
    Abandon,
    Resolve,
    List,
    Count,
    Sweep,
}

/// The fault of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No fault.
    None,
    /// The step is not taken, and fails.
    Fail,
    /// The step is taken, and returns an error.
    FailAfter,
    Full,
    Newer,
    /// The step is taken, and its result makes no sense.
    Garbled,
    /// The step is not taken, and never completes.
    Hang,
    /// The step is taken, and never completes.
    LoseAnswer,
    /// The step is taken this much later, and then completes.
    TakeLate(Duration),
    /// The step is taken at once, and completes this much later.
    AnswerLate(Duration),
    /// The step never completes. It is taken this much later, although nobody waits any more.
    ArriveLate(Duration),
    /// The step is taken twice, and returns the second result.
    Twice,
    /// Returns one result too few.
    TooFew,
    /// Returns one result too many.
    TooMany,
    /// The step is not taken, and returns stale.
    Stale,
    /// Reports that it found as much as the limit allows.
    Endless,
    /// Reports another request with the same fingerprint.
    Echo,
    Panic,
}

#[derive(Default)]
struct Told {
    next: HashMap<Step, VecDeque<Fault>>,
    always: HashMap<Step, Fault>,
    taken: Vec<(Step, Instant)>,
    /// The number of holds of each renewal.
    renewed: Vec<usize>,
}

/// A store under test that follows a script.
pub(crate) struct Scripted<P> {
    memory: MemoryStore<P>,
    told: Arc<Mutex<Told>>,
}

impl<P> Clone for Scripted<P> {
    fn clone(&self) -> Self {
        Self { memory: self.memory.clone(), told: Arc::clone(&self.told) }
    }
}

impl<P: Clone + Send + Sync + 'static> Scripted<P> {
    pub(crate) fn new() -> Self {
        Self::over(MemoryStore::new())
    }

    pub(crate) fn over(memory: MemoryStore<P>) -> Self {
        Self { memory, told: Arc::default() }
    }

    /// Sets the faults of the next steps of this kind. Later steps have no fault.
    pub(crate) fn next(&self, step: Step, faults: impl IntoIterator<Item = Fault>) {
        self.told.lock().unwrap().next.entry(step).or_default().extend(faults);
    }

    /// Sets the fault of all steps of this kind from now on.
    pub(crate) fn always(&self, step: Step, fault: Fault) {
        self.told.lock().unwrap().always.insert(step, fault);
    }

    /// Sets the fault of all steps from now on.
    pub(crate) fn everything(&self, fault: Fault) {
        use Step::*;
        for step in [
            Claim,
            MarkStarted,
            Renew,
            Checkpoint,
            Complete,
            Release,
            Abandon,
            Resolve,
            List,
            Count,
            Sweep,
        ] {
            self.always(step, fault);
        }
    }

    /// Returns how often a step was requested.
    pub(crate) fn taken(&self, step: Step) -> usize {
        self.taken_at(step).len()
    }

    /// Returns when a step was requested.
    pub(crate) fn taken_at(&self, step: Step) -> Vec<Instant> {
        let told = self.told.lock().unwrap();
        told.taken.iter().filter(|taken| taken.0 == step).map(|taken| taken.1).collect()
    }

    pub(crate) fn renewed(&self) -> Vec<usize> {
        self.told.lock().unwrap().renewed.clone()
    }

    /// Returns the number of handles of this store.
    ///
    /// Tests, layers and background tasks hold them.
    pub(crate) fn handles(&self) -> usize {
        Arc::strong_count(&self.told)
    }

    pub(crate) fn memory(&self) -> &MemoryStore<P> {
        &self.memory
    }

    fn fault(&self, step: Step) -> Fault {
        let mut told = self.told.lock().unwrap();
        told.taken.push((step, Instant::now()));
        let next = told.next.get_mut(&step).and_then(VecDeque::pop_front);
        next.or_else(|| told.always.get(&step).copied()).unwrap_or(Fault::None)
    }

    async fn take<T, F>(
        &self,
        step: Step,
        act: impl Fn(MemoryStore<P>) -> F + Send + Sync,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let act = || act(self.memory.clone());
        match self.fault(step) {
            Fault::Fail => Err(StoreError::unavailable("it is down")),
            Fault::FailAfter => {
                let _ = act().await;
                Err(StoreError::unavailable("it went down"))
            }
            Fault::Full => Err(StoreError::Full),
            Fault::Newer => Err(StoreError::Newer(9)),
            Fault::Garbled => {
                let _ = act().await;
                Err(StoreError::Garbled("blah"))
            }
            Fault::Hang => std::future::pending().await,
            Fault::LoseAnswer => {
                let _ = act().await;
                std::future::pending().await
            }
            Fault::TakeLate(late) => {
                sleep(late).await;
                act().await
            }
            Fault::AnswerLate(late) => {
                let answer = act().await;
                sleep(late).await;
                answer
            }
            Fault::ArriveLate(late) => {
                let act = act();
                tokio::spawn(async move {
                    sleep(late).await;
                    let _ = act.await;
                });
                std::future::pending().await
            }
            Fault::Twice => {
                let _ = act().await;
                act().await
            }
            Fault::Panic => panic!("the store panics"),
            Fault::None
            | Fault::TooFew
            | Fault::TooMany
            | Fault::Stale
            | Fault::Endless
            | Fault::Echo => act().await,
        }
    }

    /// Returns whether the next step of this kind has this fault, and uses it up if so.
    fn is_next(&self, step: Step, fault: Fault) -> bool {
        let mut told = self.told.lock().unwrap();
        let next = told.next.get(&step).and_then(VecDeque::front).copied();
        if next.or_else(|| told.always.get(&step).copied()) != Some(fault) {
            return false;
        }
        if let Some(queue) = told.next.get_mut(&step) {
            queue.pop_front();
        }
        told.taken.push((step, Instant::now()));
        true
    }
}

impl<P: Clone + Send + Sync + 'static> Store for Scripted<P> {
    type Payload = P;

    fn usage(&self) -> Option<StoreUsage> {
        self.memory.usage()
    }

    fn share(&self, claim: &Claim) -> Option<StoreUsage> {
        self.memory.share(claim)
    }

    async fn claim(&self, claim: &Claim) -> Result<ClaimOutcome<P>, StoreError> {
        if self.is_next(Step::Claim, Fault::Echo) {
            return Ok(ClaimOutcome::Mismatch { recorded: claim.fingerprint });
        }
        let claim = claim.clone();
        self.take(Step::Claim, move |store| {
            let claim = claim.clone();
            async move { store.claim(&claim).await }
        })
        .await
    }

    async fn mark_started(&self, hold: &Hold) -> Result<StepOutcome, StoreError> {
        if self.is_next(Step::MarkStarted, Fault::Stale) {
            return Ok(StepOutcome::Stale);
        }
        let hold = *hold;
        self.take(Step::MarkStarted, move |store| async move { store.mark_started(&hold).await })
            .await
    }

    async fn renew(&self, holds: &[Hold], lease: Duration) -> Result<Vec<StepOutcome>, StoreError> {
        self.told.lock().unwrap().renewed.push(holds.len());
        for (fault, answers) in
            [(Fault::TooFew, holds.len() - 1), (Fault::TooMany, holds.len() + 1)]
        {
            if self.is_next(Step::Renew, fault) {
                return Ok(vec![StepOutcome::Stale; answers]);
            }
        }
        if self.is_next(Step::Renew, Fault::Stale) {
            return Ok(vec![StepOutcome::Stale; holds.len()]);
        }
        let holds = holds.to_vec();
        self.take(Step::Renew, move |store| {
            let holds = holds.clone();
            async move { store.renew(&holds, lease).await }
        })
        .await
    }

    async fn checkpoint(&self, hold: &Hold, kept: Vec<u8>) -> Result<StepOutcome, StoreError> {
        let hold = *hold;
        self.take(Step::Checkpoint, move |store| {
            let kept = kept.clone();
            async move { store.checkpoint(&hold, kept).await }
        })
        .await
    }

    async fn complete(
        &self,
        hold: &Hold,
        completed: Completed<P>,
        ttl: Duration,
    ) -> Result<StepOutcome, StoreError> {
        if self.is_next(Step::Complete, Fault::Stale) {
            return Ok(StepOutcome::Stale);
        }
        let hold = *hold;
        self.take(Step::Complete, move |store| {
            let completed = completed.clone();
            async move { store.complete(&hold, completed, ttl).await }
        })
        .await
    }

    async fn release(
        &self,
        key: &StorageKey,
        owner: &Owner,
        unknown_for: Duration,
    ) -> Result<StepOutcome, StoreError> {
        let (key, owner) = (*key, *owner);
        self.take(Step::Release, move |store| async move {
            store.release(&key, &owner, unknown_for).await
        })
        .await
    }

    async fn abandon(&self, hold: &Hold, unknown_for: Duration) -> Result<StepOutcome, StoreError> {
        let hold = *hold;
        self.take(
            Step::Abandon,
            move |store| async move { store.abandon(&hold, unknown_for).await },
        )
        .await
    }

    async fn resolve(
        &self,
        key: &StorageKey,
        fence: u64,
        resolution: Resolution<P>,
    ) -> Result<StepOutcome, StoreError> {
        let key = *key;
        self.take(Step::Resolve, move |store| {
            let resolution = resolution.clone();
            async move { store.resolve(&key, fence, resolution).await }
        })
        .await
    }

    async fn unknown(
        &self,
        after: Option<StorageKey>,
        limit: usize,
    ) -> Result<Vec<UnknownOperation>, StoreError> {
        self.take(Step::List, move |store| async move { store.unknown(after, limit).await }).await
    }

    async fn count_unknown(&self) -> Result<u64, StoreError> {
        self.take(Step::Count, move |store| async move { store.count_unknown().await }).await
    }

    async fn sweep(&self, limit: usize) -> Result<usize, StoreError> {
        if self.is_next(Step::Sweep, Fault::Endless) {
            return Ok(limit);
        }
        self.take(Step::Sweep, move |store| async move { store.sweep(limit).await }).await
    }
}
