//! A shared call, in its own task, so that its callers can leave.

use std::{any::Any, future::poll_fn, pin::pin, sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};
use tower_service::Service;
use tracing::{Instrument, Span};

use super::{
    entry::Entry,
    hashing::Hashed,
    owned_service::OwnedService,
    parts::Parts,
    rules::{KeepFor, Rules, Shareable},
    shared_call::{Ended, Permit, Place, SharedCall},
};
use crate::{
    CarryRejection, Classify, Fault, Outcome, Rejection,
    call::{
        catch_panic::CatchPanic,
        completion::CallEnd,
        degraded::{DegradedBy, Reason, ResponseSource, listen},
        ended_call::EndedCall,
        hop::Hop,
        oneshot::Oneshot,
        race::{Either, race},
        random::{between, draw},
        settle_here::SettleHere,
    },
    error::SharedFailure,
    keep::{Kept, KeptPart},
    outcome::judge,
    telemetry::Event,
};

/// The time in which a response must have arrived to be kept, if the total timeout is not known.
const BODY_TIME: Duration = Duration::from_secs(5);

/// The result of a shared call for the caller that began it.
pub(super) enum Reply<Res, E> {
    Done(Result<Res, E>, Option<Reason>),
    Panicked(Box<dyn Any + Send>),
}

/// Returns why an older response is better than this result, or `None` if it is not.
pub(super) fn reason(outcome: Outcome, rejection: Option<&Rejection>) -> Option<Reason> {
    Reason::of(outcome, rejection).filter(Reason::is_outage)
}

/// Returns the end of a response that is still open, as the stack's kind of completion says.
pub(super) type EndOf<Res, E> = fn(&mut Result<Res, E>) -> Option<&mut CallEnd>;

/// A call that was begun, with all that its task needs.
pub(super) struct Begun<S: Service<Req>, Req, K: Eq + Clone, V, R, C> {
    pub(super) parts: Arc<Parts<K, V, R, C>>,
    pub(super) service: S,
    pub(super) request: Req,
    pub(super) landing: Landing<K, V, R, C>,
    pub(super) stale: Option<Arc<Entry<V>>>,
    /// The place of the task itself, if the call continues after all callers have left.
    pub(super) own_place: Option<Place<K, V>>,
    /// The call to an endpoint is settled here, because the caller's part of the call settles.
    pub(super) settles: bool,
    pub(super) end_of: EndOf<S::Response, S::Error>,
}

/// Ends the call however its task ends, even if it is never polled.
pub(super) struct Landing<K: Eq + Clone, V, R, C> {
    parts: Arc<Parts<K, V, R, C>>,
    key: Hashed<K>,
    tag: u64,
    call: Arc<SharedCall<V>>,
    key_bytes: usize,
    /// Is freed after the result was stored, and before the callers are woken.
    permit: Option<Permit>,
    is_done: bool,
}

impl<S, Req, K, V, R, C> Begun<S, Req, K, V, R, C>
where
    S: OwnedService<Req>,
    Req: Send + 'static,
    K: Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    R: Rules<Req, S::Response, K, V> + Send + Sync + 'static,
    C: Classify<S::Response, S::Error> + Send + Sync + 'static,
{
    /// Spawns the task, in the span of the caller, and returns the receiver of its result.
    pub(super) fn spawn(self) -> oneshot::Receiver<Reply<S::Response, S::Error>> {
        let (reply, replied) = oneshot::channel();
        let call = Arc::clone(&self.landing.call);
        let task = tokio::spawn(self.run(reply).instrument(Span::current()));
        call.set_task(task.abort_handle());
        replied
    }

    async fn run(self, reply: oneshot::Sender<Reply<S::Response, S::Error>>) {
        let Self { parts, service, request, mut landing, stale, .. } = self;
        let (own_place, settles, end_of) = (self.own_place, self.settles, self.end_of);
        let limit = parts.total.unwrap_or(BODY_TIME);
        let now = Instant::now();
        let until = now.checked_add(limit).unwrap_or(now + BODY_TIME);
        let work = async {
            let mut asked = pin!(SettleHere::new(settles, Oneshot::waiting(service, request)));
            let mut source: Option<ResponseSource> = None;
            let (mut result, endpoint) = poll_fn(|cx| {
                let _listening = listen(source);
                let polled = asked.as_mut().poll(cx);
                source = ResponseSource::reported();
                polled
            })
            .await;
            let degraded = source.and_then(ResponseSource::degraded);
            let arrival = Arrival { began: now, at: Instant::now(), degraded, until };
            let outcome = judge(&*parts.classifier, result.as_ref());
            if let Some(endpoint) = endpoint {
                settle(endpoint, outcome, &mut result, end_of);
            }
            parts.take(result, outcome, arrival, end_of).await
        };
        let mut work = pin!(Hop::observe(CatchPanic { future: work }));
        let (worked, hop) = match race(work.as_mut(), sleep_until(landing.call.until())).await {
            Either::Left(worked) => worked,
            // It may hang for ever.
            Either::Right(()) if landing.call.is_unattended() => return,
            Either::Right(()) => match parts.total {
                // It hangs outside of the total timeout, such as in a `Keep` of the user.
                Some(total) => (Ok(parts.cut(total.saturating_mul(2))), Hop::default()),
                None => work.await,
            },
        };
        let result = match worked {
            Ok(Taken { result, ended, reason, news, keep, not_kept }) => {
                if let Some(reason) = not_kept {
                    let reporter = parts.shared.config.reporter.get();
                    reporter.emit(Event::ResponseNotKept { reason });
                }
                match (&stale, &reason) {
                    (Some(stale), Some(reason)) => {
                        stale.hold_off(Instant::now(), parts.hold_off(reason), reason.clone());
                    }
                    (Some(stale), None) => news.apply(stale),
                    (None, _) => {}
                }
                landing.end(ended, keep, hop);
                Reply::Done(result, reason)
            }
            Err(panic) => {
                landing.end(Ended::Lost, Keeping::NOTHING, hop);
                Reply::Panicked(panic)
            }
        };
        // The caller may have left.
        drop(reply.send(result));
        drop(own_place);
    }
}

/// Settles the call to an endpoint, or lets it end with the body of the response.
fn settle<Res, E: CarryRejection>(
    endpoint: EndedCall,
    outcome: Outcome,
    result: &mut Result<Res, E>,
    end_of: EndOf<Res, E>,
) {
    if !matches!(outcome, Outcome::Failure(_)) {
        if let Some(end) = end_of(result) {
            return endpoint.hold(end, None, None);
        }
    }
    endpoint.settle(outcome, result.as_ref(), None, None);
}

/// The arrival of a result.
struct Arrival {
    /// The begin of the call.
    began: Instant,
    at: Instant,
    /// The kind of a response that a layer beneath gave.
    degraded: Option<DegradedBy>,
    /// The end of the time in which a body must arrive to be kept.
    until: Instant,
}

/// The effect that a result without an outage has on an older response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// The older response is outdated, even if the newer one is not kept.
    Outdated,
    /// The service is well, so its failures no longer hold off calls.
    Well,
    /// No effect, because the service has not responded.
    None,
}

impl News {
    /// Returns the effect of this result. `degraded` is set if a layer beneath gave it.
    pub(super) fn of(
        outcome: Outcome,
        rejection: Option<&Rejection>,
        degraded: Option<DegradedBy>,
    ) -> Self {
        match outcome {
            _ if degraded.is_some() => Self::None,
            Outcome::Success | Outcome::Failure(Fault::Permanent) if rejection.is_none() => {
                Self::Outdated
            }
            _ => Self::Well,
        }
    }

    /// Applies the effect to the older response.
    pub(super) fn apply<V>(self, older: &Entry<V>) {
        match self {
            Self::Outdated => older.mark_outdated(),
            Self::Well => older.end_hold_off(),
            Self::None => {}
        }
    }
}

/// The time for which a response is kept.
#[derive(Clone, Copy, Debug)]
struct Keeping {
    time: KeepFor,
    is_given_stale: bool,
    /// The arrival of the response, from which its age counts.
    at: Option<Instant>,
}

impl Keeping {
    const NOTHING: Self = Self { time: KeepFor::Nothing, is_given_stale: false, at: None };
}

/// A result, for the caller that asked and for those that wait.
struct Taken<Res, E, V> {
    result: Result<Res, E>,
    ended: Ended<(V, usize)>,
    reason: Option<Reason>,
    news: News,
    keep: Keeping,
    not_kept: Option<&'static str>,
}

impl<K, V, R, C> Parts<K, V, R, C> {
    async fn take<Req, Res, E>(
        &self,
        result: Result<Res, E>,
        outcome: Outcome,
        arrival: Arrival,
        end_of: EndOf<Res, E>,
    ) -> Taken<Res, E, V>
    where
        R: Rules<Req, Res, K, V>,
        C: Classify<Res, E>,
        E: CarryRejection,
    {
        let classifier = &*self.classifier;
        let rejection = result.as_ref().err().and_then(CarryRejection::rejection);
        let reason = reason(outcome, rejection);
        let marked = || result.as_ref().ok().and_then(|it| self.rules.degraded(it));
        let degraded = arrival.degraded.or_else(marked);
        let news = News::of(outcome, rejection, degraded);
        match result {
            Ok(response) => {
                let Arrival { began, at, until, .. } = arrival;
                let took = at.saturating_duration_since(began);
                let shareable = self.rules.keep(response, outcome, took, until).await;
                let Shareable { kept, time, is_given_stale, not_kept } = shareable;
                let Kept { response, part } = kept;
                let mut result = Ok(response);
                // A body that was read ahead may have failed.
                let broken = match end_of(&mut result).and_then(|end| end.failure()) {
                    Some((outcome, _)) => Some(outcome),
                    None if matches!(part, KeptPart::BrokenOff) => {
                        Some(Outcome::Failure(Fault::Transient))
                    }
                    None => None,
                };
                let reason = reason.or_else(|| self::reason(broken?, None));
                let failed = reason.is_some();
                let ended = match part {
                    KeptPart::Payload { payload, bytes } => {
                        Ended::Response { value: (payload, bytes), failed, degraded }
                    }
                    KeptPart::NotKept | KeptPart::BrokenOff => Ended::NotShareable { failed },
                };
                let time = if degraded.is_some() { KeepFor::Nothing } else { time };
                let keep = Keeping { time, is_given_stale, at: Some(at) };
                Taken { result, ended, reason, news, keep, not_kept }
            }
            Err(error) => {
                let rejection = match error.rejection() {
                    Some(rejection) => rejection.clone(),
                    None => {
                        let cause = classifier.error_type(Err(&error));
                        let name = self.shared.config.reporter.name().cloned();
                        let text = cause.unwrap_or(outcome.as_str());
                        SharedFailure::by(name, outcome, cause, text.into()).into()
                    }
                };
                let ended = Ended::Error { rejection, failed: reason.is_some() };
                let keep = Keeping::NOTHING;
                Taken { result: Err(error), ended, reason, news, keep, not_kept: None }
            }
        }
    }

    /// Returns the result of a call that was ended after this time.
    #[cold]
    fn cut<Res, E: CarryRejection>(&self, time: Duration) -> Taken<Res, E, V> {
        let rejection = Rejection::from(self.timed_out(time));
        let reason = Some(Reason::Rejected(rejection.clone()));
        let ended = Ended::Error { rejection: rejection.clone(), failed: true };
        let result = Err(self.shared.config.reporter.get().reject(rejection));
        let (news, keep) = (News::None, Keeping::NOTHING);
        Taken { result, ended, reason, news, keep, not_kept: None }
    }

    /// Returns for how long the service is not asked again.
    ///
    /// That is the time that the service asks for, up to the time for which the entry is given.
    fn hold_off(&self, reason: &Reason) -> Duration {
        let asked = match reason {
            Reason::Failed(Fault::Overloaded { retry_after }) => *retry_after,
            Reason::Rejected(rejection) => rejection.retry_after(),
            _ => None,
        };
        let times = &self.shared.config.times;
        asked.map_or(times.hold_off, |asked| asked.min(times.if_error).max(times.hold_off))
    }
}

impl<K: Eq + Clone, V, R, C> Landing<K, V, R, C> {
    pub(super) fn new(
        parts: Arc<Parts<K, V, R, C>>,
        key: Hashed<K>,
        tag: u64,
        call: Arc<SharedCall<V>>,
        key_bytes: usize,
        permit: Permit,
    ) -> Self {
        Self { parts, key, tag, call, key_bytes, permit: Some(permit), is_done: false }
    }
}

impl<K: Eq + Clone, V: Clone, R, C> Landing<K, V, R, C> {
    /// Stores the result, and wakes the callers that wait.
    fn end(&mut self, ended: Ended<(V, usize)>, keep: Keeping, hop: Hop) {
        let (shared, tag, generation) = (&self.parts.shared, self.tag, self.call.generation());
        // Made before the lock is taken, because it runs code of the user.
        let (mut entry, key) = (self.entry(&ended, keep), self.key.clone());
        let too_big = entry.take_if(|entry| !shared.store.takes(entry));
        let removed = shared.calls.remove(&self.key, &self.call, || {
            // A key that was forgotten meanwhile stays forgotten.
            let is_current = shared.generations.current(tag) == generation;
            let entry = if is_current { entry.take() } else { None };
            entry.map(|entry| shared.store.insert(key, entry))
        });
        let ended = match ended {
            Ended::Response { value: (value, _), failed, degraded } => {
                Ended::Response { value, failed, degraded }
            }
            Ended::Error { rejection, failed } => Ended::Error { rejection, failed },
            Ended::NotShareable { failed } => Ended::NotShareable { failed },
            Ended::Lost => Ended::Lost,
        };
        self.permit = None;
        self.call.end(ended, hop);
        // Until here, a panic of the user's code ends the call as lost.
        self.is_done = true;
        if too_big.is_some() {
            shared.config.reporter.get().emit(Event::ResponseNotKept { reason: "size" });
        }
        drop((removed, entry, too_big));
    }

    /// Returns what is kept of a result.
    fn entry(&self, ended: &Ended<(V, usize)>, keep: Keeping) -> Option<Entry<V>> {
        let (times, now) = (self.parts.shared.times(), Instant::now());
        let generation = self.call.generation();
        match ended {
            Ended::Response { value: (value, bytes), .. } => {
                let ttl = match keep.time {
                    KeepFor::Nothing => return None,
                    KeepFor::Ttl => times.ttl,
                    KeepFor::AtMost(most) => times.ttl.min(most),
                    KeepFor::Exactly(ttl) => ttl,
                };
                let bytes = self.key_bytes.saturating_add(*bytes);
                let at = keep.at.unwrap_or(now);
                let entry = Entry::kept(value.clone(), bytes, generation, at, jittered(ttl));
                Some(entry.given_stale(keep.is_given_stale))
            }
            Ended::NotShareable { failed: false } => {
                let until = times.ttl.max(times.hold_off);
                Some(Entry::not_shareable(self.key_bytes, generation, now, until))
            }
            // A failure says nothing about later responses, and leaves the one that is kept.
            Ended::NotShareable { failed: true } | Ended::Error { .. } | Ended::Lost => None,
        }
    }
}

/// Returns how long a response stays fresh that may be kept for `ttl`.
///
/// It is up to a tenth shorter, so that entries that were made together are not renewed together.
fn jittered(ttl: Duration) -> Duration {
    draw(|rng| between(ttl - ttl / 10, ttl, rng))
}

impl<K: Eq + Clone, V, R, C> Drop for Landing<K, V, R, C> {
    fn drop(&mut self) {
        if !self.is_done {
            // The last caller has left, or the runtime shuts down.
            self.parts.shared.calls.remove(&self.key, &self.call, || ());
            self.permit = None;
            self.call.end(Ended::Lost, Hop::default());
        }
    }
}
