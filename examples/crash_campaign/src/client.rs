//! A client, which repeats one request with the same key and payload until it learns the outcome.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout};

use crate::{
    driver::Campaign,
    faults::Fault,
    process::{Process, lock},
    protocol::{Ask, Call, Found, Policy, Reply},
};

/// The time after which a client without a response asks another worker.
pub(crate) const CLIENT_TIMEOUT: Duration = Duration::from_millis(400);

/// The time after which a client gives up, which none should need.
const PATIENCE: Duration = Duration::from_secs(20);

/// The number of "unknown" responses after which a client stops.
///
/// A quarantined operation is asked about once more, to see that it stays unknown. A reconciled
/// one is asked about until the ledger has been checked.
const ASKS_QUARANTINED: u32 = 2;
const ASKS_RECONCILED: u32 = 5;

const GIVES_UP_UNKNOWN: Duration = Duration::from_secs(3);

pub(crate) struct Client {
    pub(crate) call: Call,
    /// The first worker to ask, and the fault that happens there.
    pub(crate) first: Option<(Arc<Process>, Option<Fault>)>,
    /// The delay before the first request, in milliseconds.
    pub(crate) wait: u64,
    /// The index of the worker that it prefers.
    pub(crate) lane: usize,
}

impl Client {
    pub(crate) async fn run(mut self, campaign: Arc<Campaign>) {
        sleep(Duration::from_millis(self.wait)).await;
        let begun = Instant::now();
        let mut told_unknown = 0;
        while begun.elapsed() < PATIENCE {
            match self.attempt(&campaign).await {
                Some(Reply::Done(_) | Reply::Mismatch | Reply::Odd(_)) => {
                    if told_unknown == 0 {
                        self.told(&campaign);
                    }
                    break;
                }
                Some(Reply::Unknown) => {
                    if told_unknown == 0 {
                        self.told(&campaign);
                    }
                    told_unknown += 1;
                    let asks = match self.call.policy {
                        Policy::Quarantine => {
                            self.note_fence(&campaign).await;
                            ASKS_QUARANTINED
                        }
                        Policy::Reconcile => ASKS_RECONCILED,
                    };
                    if told_unknown == asks {
                        break;
                    }
                }
                _ if self.is_settled_as_unknown(&campaign) => {
                    if told_unknown == 0 {
                        self.told(&campaign);
                    }
                    break;
                }
                _ => {}
            }
            sleep(Duration::from_millis(30 + campaign.dice.below(50))).await;
        }
    }

    /// Returns whether the outcome became unknown long ago, without a response to this client.
    ///
    /// The response that said so came too late for this client. Later requests may only find the
    /// reconciliation that another client has started.
    fn is_settled_as_unknown(&self, campaign: &Campaign) -> bool {
        let since = campaign.history.with(&self.call.key, |history| history.unknown_since);
        since.flatten().is_some_and(|since| since.elapsed() > GIVES_UP_UNKNOWN)
    }

    fn told(&self, campaign: &Campaign) {
        campaign.history.with(&self.call.key, |history| history.unanswered -= 1);
    }

    /// Sends the request once. Returns `None` if there was no response.
    async fn attempt(&mut self, campaign: &Campaign) -> Option<Reply> {
        let (process, fault) = match self.first.take() {
            Some(first) => first,
            None => {
                let process = campaign.any_worker(self.lane)?;
                self.lane += 1;
                (process, None)
            }
        };
        let ask = Ask::Call(Call { fault, ..self.call.clone() });
        let (trouble, reply) = process.ask(&self.call.key, &ask);
        let store = lock(&campaign.trouble).clone();
        for trouble in trouble.into_iter().chain(store) {
            campaign.history.hit(std::slice::from_ref(&self.call.key), &trouble);
        }
        timeout(CLIENT_TIMEOUT, reply).await.ok()?.ok()
    }

    /// Notes the fence of the lost run.
    ///
    /// It must not change, because another fence means a later run.
    async fn note_fence(&self, campaign: &Campaign) {
        if let Found::Unknown(fence) = campaign.probe(&self.call.key, self.lane).await {
            campaign.history.with(&self.call.key, |history| {
                history.unknown_fence.get_or_insert(fence);
            });
        }
    }
}
