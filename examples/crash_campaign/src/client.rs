//! A client: sends one request, with the same key and the same payload, until it is told what became of it.

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

/// A client asks somebody else if it is not answered within this.
pub(crate) const CLIENT_TIMEOUT: Duration = Duration::from_millis(400);

/// When a client gives up, which none should have to.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often a client asks that is told that nobody knows: once more to see that it stays so, or until the
/// ledger has been asked.
const ASKS_QUARANTINED: u32 = 2;
const ASKS_RECONCILED: u32 = 5;

const GIVES_UP_UNKNOWN: Duration = Duration::from_secs(3);

pub(crate) struct Client {
    pub(crate) call: Call,
    /// Whom to ask first, and what is to go wrong there.
    pub(crate) first: Option<(Arc<Process>, Option<Fault>)>,
    /// How long it waits before it asks at all, in milliseconds.
    pub(crate) wait: u64,
    /// Which worker it prefers.
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

    /// Whether it has been said long ago that nobody knows, though in an answer that came too late for this
    /// client: whoever asks again finds the ledger being asked for somebody else.
    fn is_settled_as_unknown(&self, campaign: &Campaign) -> bool {
        let since = campaign.history.with(&self.call.key, |history| history.unknown_since);
        since.flatten().is_some_and(|since| since.elapsed() > GIVES_UP_UNKNOWN)
    }

    fn told(&self, campaign: &Campaign) {
        campaign.history.with(&self.call.key, |history| history.unanswered -= 1);
    }

    /// `None` if there was no answer.
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

    /// The fence of the run that was lost must stay what it is: another would be that of a run after it.
    async fn note_fence(&self, campaign: &Campaign) {
        if let Found::Unknown(fence) = campaign.probe(&self.call.key, self.lane).await {
            campaign.history.with(&self.call.key, |history| {
                history.unknown_fence.get_or_insert(fence);
            });
        }
    }
}
