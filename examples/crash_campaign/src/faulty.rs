//! The store of a worker: the real one, with faults before and after its steps.
//!
//! The library needs no hooks for them.

use std::{io::Write, path::PathBuf, sync::Arc, time::Duration};

use buttress::idempotency::{
    Claim, ClaimOutcome, Completed, Hold, Owner, Resolution, StepOutcome, StorageKey, Store,
    StoreError, UnknownOperation,
};
use tokio::sync::RwLock;

use crate::{
    faults::{Armed, Point},
    ledger,
};

/// A store that reaches the points of the campaign.
///
/// It notes the outcome of each step in a journal.
#[derive(Clone, Debug)]
pub(crate) struct Faulty<S> {
    inner: S,
    around: Arc<Around>,
}

#[derive(Debug)]
pub(crate) struct Around {
    pub(crate) armed: Armed,
    journal: PathBuf,
    /// Locked while the store does not respond.
    gate: RwLock<()>,
}

impl<S> Faulty<S> {
    pub(crate) fn new(inner: S, journal: PathBuf) -> Self {
        let around = Around { armed: Armed::default(), journal, gate: RwLock::default() };
        Self { inner, around: Arc::new(around) }
    }

    pub(crate) fn around(&self) -> &Arc<Around> {
        &self.around
    }
}

impl Around {
    /// Delays every step like a paused server, for a store without a server.
    pub(crate) async fn stall(&self, for_how_long: Duration) {
        let _closed = self.gate.write().await;
        tokio::time::sleep(for_how_long).await;
    }

    fn note(&self, what: &str, key: &StorageKey, fence: u64) {
        let line = format!("{what} {key} {fence}\n");
        let noted =
            ledger::append(&self.journal).and_then(|mut file| file.write_all(line.as_bytes()));
        if let Err(error) = noted {
            eprintln!("the journal cannot be written: {error}");
            std::process::abort();
        }
    }

    fn note_written(&self, step: &str, hold: &Hold, written: &Result<StepOutcome, StoreError>) {
        match written {
            Ok(StepOutcome::Applied) => self.note(step, &hold.key, hold.fence),
            Ok(StepOutcome::Stale) => self.note(&format!("stale_{step}"), &hold.key, hold.fence),
            Err(_) => {}
        }
    }
}

impl<S: Store<Payload = Vec<u8>>> Faulty<S> {
    /// Runs a step in its own task.
    ///
    /// A step that was sent is applied even if the layer no longer waits for it. This is how late
    /// writes happen.
    async fn sent<T, F>(
        &self,
        step: impl FnOnce(S, Arc<Around>) -> F + Send + 'static,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        let (store, around) = (self.inner.clone(), Arc::clone(&self.around));
        let taken = tokio::spawn(async move {
            drop(around.gate.read().await);
            step(store, around).await
        });
        taken.await.map_err(StoreError::unavailable)?
    }
}

impl<S: Store<Payload = Vec<u8>>> Store for Faulty<S> {
    type Payload = Vec<u8>;

    async fn claim(&self, claim: &Claim) -> Result<ClaimOutcome<Vec<u8>>, StoreError> {
        self.around.armed.reach(Point::BeforeClaim, &claim.key);
        let sent = claim.clone();
        let answer = self
            .sent(move |store, around| async move {
                let answer = store.claim(&sent).await;
                if let Ok(ClaimOutcome::Claimed { fence, .. }) = &answer {
                    around.note("claim", &sent.key, *fence);
                }
                answer
            })
            .await;
        if let Ok(ClaimOutcome::Claimed { .. }) = &answer {
            self.around.armed.reach(Point::ClaimedBeforeEffect, &claim.key);
        }
        answer
    }

    async fn mark_started(&self, hold: &Hold) -> Result<StepOutcome, StoreError> {
        let hold = *hold;
        self.sent(move |store, _| async move { store.mark_started(&hold).await }).await
    }

    async fn renew(&self, holds: &[Hold], lease: Duration) -> Result<Vec<StepOutcome>, StoreError> {
        let sent = holds.to_vec();
        let renewed = self.sent(move |store, around| async move {
            let written = store.renew(&sent, lease).await?;
            for (hold, written) in sent.iter().zip(&written) {
                around.note_written("renew", hold, &Ok(*written));
            }
            Ok(written)
        });
        let mut renewed = std::pin::pin!(renewed);
        // The step is sent before the worker is killed, so it is random whether it is applied.
        let early = tokio::time::timeout(Duration::ZERO, &mut renewed).await;
        for hold in holds {
            self.around.armed.reach(Point::InRenewal, &hold.key);
        }
        match early {
            Ok(written) => written,
            Err(_) => renewed.await,
        }
    }

    async fn checkpoint(
        &self,
        hold: &Hold,
        checkpoint: Vec<u8>,
    ) -> Result<StepOutcome, StoreError> {
        let hold = *hold;
        self.sent(move |store, _| async move { store.checkpoint(&hold, checkpoint).await }).await
    }

    async fn complete(
        &self,
        hold: &Hold,
        completed: Completed<Vec<u8>>,
        ttl: Duration,
    ) -> Result<StepOutcome, StoreError> {
        self.around.armed.reach(Point::BetweenEffectAndRecord, &hold.key);
        let sent = *hold;
        let written = self
            .sent(move |store, around| async move {
                let written = store.complete(&sent, completed, ttl).await;
                around.note_written("complete", &sent, &written);
                written
            })
            .await;
        if let Ok(StepOutcome::Applied) = written {
            self.around.armed.reach(Point::RecordedBeforeAnswer, &hold.key);
        }
        written
    }

    async fn release(
        &self,
        key: &StorageKey,
        owner: &Owner,
        unknown_for: Duration,
    ) -> Result<StepOutcome, StoreError> {
        let (key, owner) = (*key, *owner);
        self.sent(move |store, _| async move { store.release(&key, &owner, unknown_for).await })
            .await
    }

    async fn abandon(&self, hold: &Hold, unknown_for: Duration) -> Result<StepOutcome, StoreError> {
        let hold = *hold;
        self.sent(move |store, around| async move {
            let written = store.abandon(&hold, unknown_for).await;
            around.note_written("abandon", &hold, &written);
            written
        })
        .await
    }

    async fn resolve(
        &self,
        key: &StorageKey,
        fence: u64,
        resolution: Resolution<Vec<u8>>,
    ) -> Result<StepOutcome, StoreError> {
        let key = *key;
        self.sent(move |store, _| async move { store.resolve(&key, fence, resolution).await }).await
    }

    async fn unknown(
        &self,
        after: Option<StorageKey>,
        limit: usize,
    ) -> Result<Vec<UnknownOperation>, StoreError> {
        self.sent(move |store, _| async move { store.unknown(after, limit).await }).await
    }

    async fn count_unknown(&self) -> Result<u64, StoreError> {
        self.sent(|store, _| async move { store.count_unknown().await }).await
    }

    async fn sweep(&self, limit: usize) -> Result<usize, StoreError> {
        self.sent(move |store, _| async move { store.sweep(limit).await }).await
    }
}
