//! The future of the cache service.

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::{
    sync::oneshot,
    time::{Instant, Sleep},
};
use tower_service::Service;

use super::{
    ask::{Asked, Asking, Stale},
    counts::Result as Counted,
    entry::Entry,
    give::forwarded,
    owned_service::OwnedService,
    parts::Parts,
    rules::{Forwarded, How, Rules},
    shared::Forgetting,
    shared_call::Place,
    task::{News, Reply, reason},
};
use crate::{
    CarryRejection, Classify, Rejection,
    call::{
        completion::{AtHead, Completion, end_of},
        deadline::{deadline, narrow},
        degraded::{Reason, ResponseSource, listen},
        ended::polled_after_end,
        oneshot::Oneshot,
        route,
        timer::poll_timer,
    },
    outcome::{DefaultClassifier, judge},
};

pin_project! {
    /// The future of a [`Cache`](super::Cache).
    ///
    /// Dropping it leaves a call that others share. The last caller that leaves ends that call.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, Req, K, V, R, C = DefaultClassifier, M = AtHead>
    where
        S: Service<Req>,
        K: Eq,
    {
        #[pin]
        state: State<S, Req, K, V, R, C>,
        completion: PhantomData<fn() -> M>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, Req, K, V, R, C>
    where
        S: Service<Req>,
        K: Eq,
    {
        // The response is there already. `None` after it was given.
        Hit { response: Option<S::Response> },
        // Nothing has begun. `None` only while the first poll decides.
        Asking { asking: Option<Asking<S, Req, K, V, R, C>> },
        Waiting {
            parts: Arc<Parts<K, V, R, C>>,
            place: Place<K, V>,
            part: Part<S, Req>,
            stale: Stale<V>,
            #[pin]
            timer: Option<Sleep>,
        },
        Alone {
            #[pin]
            call: Oneshot<S, Req>,
            parts: Arc<Parts<K, V, R, C>>,
            alone: Alone<V>,
            #[pin]
            timer: Option<Sleep>,
            // Last, because the call must have ended when the keys are forgotten again.
            forgetting: Option<Forgetting<K, V>>,
        },
        Ended,
    }
}

/// The part of a caller in a shared call.
enum Part<S: Service<Req>, Req> {
    /// It began the call.
    Began(oneshot::Receiver<Reply<S::Response, S::Error>>),
    /// It keeps its request for the case that the call has nothing to share.
    Joined { own: Option<(S, Req)>, arrived: Instant },
}

/// The settings of a call that is not shared.
struct Alone<V> {
    forwarded: Forwarded,
    stale: Option<Arc<Entry<V>>>,
    /// The instant at which the call ends, and the time that it had.
    end: Option<(Instant, Duration)>,
    /// This end is that of the caller's time.
    is_hurried: bool,
}

impl<S, Req, K, V, R, C, M> ResponseFuture<S, Req, K, V, R, C, M>
where
    S: Service<Req>,
    K: Eq,
{
    #[inline]
    pub(super) fn hit(response: S::Response) -> Self {
        Self { state: State::Hit { response: Some(response) }, completion: PhantomData }
    }

    pub(super) fn asking(asking: Asking<S, Req, K, V, R, C>) -> Self {
        Self { state: State::Asking { asking: Some(asking) }, completion: PhantomData }
    }

    pub(super) fn bypass(
        parts: Arc<Parts<K, V, R, C>>,
        call: Oneshot<S, Req>,
        forgetting: Option<Forgetting<K, V>>,
    ) -> Self {
        let forwarded = if forgetting.is_some() { Forwarded::Method } else { Forwarded::Bypass };
        let alone = Alone { forwarded, stale: None, end: None, is_hurried: false };
        let state = State::Alone { call, parts, alone, timer: None, forgetting };
        Self { state, completion: PhantomData }
    }
}

impl<S, Req, K, V, R, C, M> Future for ResponseFuture<S, Req, K, V, R, C, M>
where
    S: OwnedService<Req>,
    Req: Send + 'static,
    K: Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    R: Rules<Req, S::Response, K, V> + Send + Sync + 'static,
    C: Classify<S::Response, S::Error> + Send + Sync + 'static,
    M: Completion<S::Response>,
{
    type Output = Result<S::Response, S::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        if let StateProj::Hit { response } = state.as_mut().project() {
            let Some(response) = response.take() else { polled_after_end() };
            ResponseSource::Cache.report();
            return Poll::Ready(Ok(response));
        }
        let polled = state.as_mut().poll_asked::<M>(cx);
        if polled.is_ready() {
            state.set(State::Ended);
        }
        polled
    }
}

impl<S, Req, K, V, R, C> State<S, Req, K, V, R, C>
where
    S: OwnedService<Req>,
    Req: Send + 'static,
    K: Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    R: Rules<Req, S::Response, K, V> + Send + Sync + 'static,
    C: Classify<S::Response, S::Error> + Send + Sync + 'static,
{
    fn poll_asked<M>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Response, S::Error>>
    where
        M: Completion<S::Response>,
    {
        loop {
            let next = match self.as_mut().project() {
                StateProj::Hit { response } => {
                    let Some(response) = response.take() else { polled_after_end() };
                    return Poll::Ready(Ok(response));
                }
                StateProj::Ended => polled_after_end(),
                StateProj::Asking { asking } => {
                    let Some(asking) = asking.take() else { polled_after_end() };
                    begin::<M, _, _, _, _, _, _>(asking)
                }
                StateProj::Waiting { parts, place, part, stale, timer } => {
                    let shared = Sharing { parts: &**parts, place, part, stale };
                    match ready!(shared.poll::<M>(timer, cx)) {
                        Ok(result) => return Poll::Ready(result),
                        Err((service, request, end)) => {
                            let call = Oneshot::waiting(service, request);
                            let forwarded = forwarded(stale.had_entry);
                            let is_hurried = stale.is_hurried && end == stale.until;
                            let stale = stale.entry.take();
                            let alone = Alone { forwarded, stale, end, is_hurried };
                            let parts = Arc::clone(parts);
                            Self::Alone { call, parts, alone, timer: None, forgetting: None }
                        }
                    }
                }
                StateProj::Alone { call, parts, alone, timer, .. } => {
                    return poll_alone::<M, _, _, _, _, _, _>(call, parts, alone, timer, cx);
                }
            };
            self.set(next);
        }
    }
}

/// Begins a call that has no fresh entry. There may be a response now.
fn begin<M, S, Req, K, V, R, C>(asking: Asking<S, Req, K, V, R, C>) -> State<S, Req, K, V, R, C>
where
    S: OwnedService<Req>,
    Req: Send + 'static,
    K: Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    R: Rules<Req, S::Response, K, V> + Send + Sync + 'static,
    C: Classify<S::Response, S::Error> + Send + Sync + 'static,
    M: Completion<S::Response>,
{
    let (parts, arrived) = (Arc::clone(&asking.parts), asking.arrived);
    let (place, part, stale) = match asking.begin::<M>() {
        Asked::Entry { entry, decision } => {
            let response = parts.give::<Req, S::Response, M>(&entry, decision);
            return State::Hit { response };
        }
        Asked::Alone { service, request, stale, had_entry } => {
            let until = Stale::new(stale, parts.shared.times(), arrived, had_entry);
            let call = Oneshot::waiting(service, request);
            let alone = Alone {
                forwarded: forwarded(had_entry),
                stale: until.entry,
                end: until.until,
                is_hurried: until.is_hurried,
            };
            return State::Alone { call, parts, alone, timer: None, forgetting: None };
        }
        Asked::Began { place, reply, stale } => (place, Part::Began(reply), stale),
        Asked::Joined { place, service, request, stale } => {
            (place, Part::Joined { own: Some((service, request)), arrived }, stale)
        }
    };
    State::Waiting { parts, place, part, stale, timer: None }
}

/// A call that shares another one.
struct Sharing<'a, S: Service<Req>, Req, K: Eq, V, R, C> {
    parts: &'a Parts<K, V, R, C>,
    place: &'a mut Place<K, V>,
    part: &'a mut Part<S, Req>,
    stale: &'a mut Stale<V>,
}

/// The result of a shared call, or the own call of a caller for which there was none.
type Share<S, Req> =
    Result<Result<<S as Service<Req>>::Response, <S as Service<Req>>::Error>, OwnCall<S, Req>>;

/// The own call of a caller for which there was nothing to share, and the time when it must end.
type OwnCall<S, Req> = (S, Req, Option<(Instant, Duration)>);

impl<S, Req, K, V, R, C> Sharing<'_, S, Req, K, V, R, C>
where
    S: Service<Req, Error: CarryRejection>,
    K: Eq + Clone,
    R: Rules<Req, S::Response, K, V>,
{
    /// Waits for the result, or until an older response is given.
    fn poll<M>(self, timer: Pin<&mut Option<Sleep>>, cx: &mut Context<'_>) -> Poll<Share<S, Req>>
    where
        M: Completion<S::Response>,
    {
        let Self { parts, place, part, stale } = self;
        let polled = match part {
            Part::Began(reply) => match Pin::new(reply).poll(cx) {
                Poll::Ready(reply) => {
                    if let Some((ended, hop)) = place.call().ended() {
                        ended.report_again(*hop);
                    }
                    Poll::Ready(Ok(parts.take_reply::<Req, _, _, M>(reply.ok(), stale)))
                }
                Poll::Pending => Poll::Pending,
            },
            Part::Joined { own, arrived } => match place.poll_ended(cx) {
                Poll::Ready((ended, hop)) => {
                    ended.report_again(*hop);
                    let until = stale.until;
                    let end = || {
                        let total = parts.total.map(|total| (arrived.checked_add(total), total));
                        let total = total.and_then(|(at, total)| Some((at?, total)));
                        total.into_iter().chain(until).min_by_key(|(at, _)| *at)
                    };
                    Poll::Ready(match parts.take_ended::<Req, _, _, M>(ended, stale) {
                        Some(result) => Ok(result),
                        None => {
                            let Some((service, request)) = own.take() else { polled_after_end() };
                            Err((service, request, end()))
                        }
                    })
                }
                Poll::Pending => Poll::Pending,
            },
        };
        if polled.is_ready() {
            return polled;
        }
        // The call may run on a runtime that nothing drives any more.
        let longest = |total: Duration| (place.call().until(), total.saturating_mul(2));
        let has_joined = matches!(part, Part::Joined { .. });
        let longest = parts.total.filter(|_| has_joined).map(longest);
        let Some((at, time)) = stale.until.or(longest) else { return Poll::Pending };
        if deadline().is_some_and(|outer| outer <= at) {
            return Poll::Pending;
        }
        ready!(poll_timer(timer, at, cx));
        if stale.until.take().is_some() {
            // The call goes on, and renews the entry for the next callers.
            place.leave_running();
        }
        let reason = Reason::Rejected(parts.timed_out(time).into());
        match stale.entry.take() {
            Some(entry) => {
                if !stale.is_hurried {
                    entry.hold_off(Instant::now(), parts.shared.times().hold_off, reason.clone());
                }
                let response = parts.give_stale::<Req, S::Response, M>(&entry, reason, How::Failed);
                response.map_or(Poll::Pending, |response| Poll::Ready(Ok(Ok(response))))
            }
            None => {
                parts.shared.count(Counted::Collapsed);
                let error = parts.shared.config.reporter.get().reject(parts.timed_out(time));
                Poll::Ready(Ok(Err(error)))
            }
        }
    }
}

/// Polls a call that is not shared.
fn poll_alone<M, S, Req, K, V, R, C>(
    call: Pin<&mut Oneshot<S, Req>>,
    parts: &Parts<K, V, R, C>,
    alone: &mut Alone<V>,
    timer: Pin<&mut Option<Sleep>>,
    cx: &mut Context<'_>,
) -> Poll<Result<S::Response, S::Error>>
where
    S: Service<Req, Error: CarryRejection>,
    R: Rules<Req, S::Response, K, V>,
    C: Classify<S::Response, S::Error>,
    M: Completion<S::Response>,
{
    let outer = deadline();
    let narrowed = narrow(alone.end.map(|(at, _)| at));
    let listening = listen(None);
    let polled = call.poll(cx);
    let source = ResponseSource::reported();
    drop((listening, narrowed));
    if let Some(source) = source {
        source.report();
    }
    let mut news = News::None;
    let (result, reason) = match polled {
        Poll::Ready(result) if alone.stale.is_none() => (result, None),
        Poll::Ready(mut result) => {
            let mut outcome = judge(&*parts.classifier, result.as_ref());
            // A body that was read ahead may have failed.
            if let Some((failure, _)) = end_of::<M, _, _>(&mut result).and_then(|end| end.failure())
            {
                outcome = failure;
            }
            let rejection = result.as_ref().err().and_then(CarryRejection::rejection);
            let reason = reason(outcome, rejection);
            let marked = || result.as_ref().ok().and_then(|it| parts.rules.degraded(it));
            let degraded = source.and_then(ResponseSource::degraded).or_else(marked);
            news = News::of(outcome, rejection, degraded);
            // A caller without time says nothing about the service.
            alone.is_hurried = matches!(rejection, Some(Rejection::DeadlineExceeded(_)));
            if reason.is_some() {
                route::settle_replaced(outcome, result.as_ref(), deadline());
            }
            (result, reason)
        }
        Poll::Pending => {
            let Some((at, time)) = alone.end else { return Poll::Pending };
            if outer.is_some_and(|outer| outer <= at) {
                return Poll::Pending;
            }
            ready!(poll_timer(timer, at, cx));
            let rejection = Rejection::from(parts.timed_out(time));
            if alone.stale.is_none() {
                // Its own limit has ended the call.
                (Err(parts.shared.config.reporter.get().reject(rejection)), None)
            } else {
                let reason = Reason::Rejected(rejection.clone());
                (Err(S::Error::from_rejection(rejection)), Some(reason))
            }
        }
    };
    match (alone.stale.take(), reason) {
        (Some(entry), Some(reason)) => {
            if !alone.is_hurried {
                entry.hold_off(Instant::now(), parts.shared.times().hold_off, reason.clone());
            }
            let given = parts.give_stale::<Req, S::Response, M>(&entry, reason, How::Failed);
            if let Some(response) = given {
                return Poll::Ready(Ok(response));
            }
        }
        (Some(entry), None) => news.apply(&entry),
        (None, _) => {}
    }
    parts.shared.count(Counted::Bypassed);
    Poll::Ready(result.map(|mut response| {
        parts.rules.mark(&mut response, alone.forwarded);
        response
    }))
}

impl<S, Req, K, V, R, C, M> fmt::Debug for ResponseFuture<S, Req, K, V, R, C, M>
where
    S: Service<Req>,
    K: Eq,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("cache::ResponseFuture").finish_non_exhaustive()
    }
}
