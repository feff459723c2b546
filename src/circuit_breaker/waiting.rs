//! A caller that waits for a breaker that reports `Pending` while it is open.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::{breaker::Decision, shared::Shared};
use crate::call::waiters::Key;

/// A caller that waits for the breaker to admit it.
///
/// It has a place among the waiting callers, and a timer for the nearest instant at which it
/// could be admitted without another event.
pub(super) struct Waiting<C> {
    shared: Arc<Shared<C>>,
    place: Option<Key>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<C> Waiting<C> {
    pub(super) fn join(shared: &Arc<Shared<C>>, cx: &Context<'_>) -> Self {
        let place = shared.breaker.wait(None, cx.waker().clone());
        Self { shared: Arc::clone(shared), place: Some(place), timer: None }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Decision> {
        loop {
            // Joins the list before it asks the breaker, so that it cannot miss a change in
            // between.
            self.place = Some(self.shared.breaker.wait(self.place, cx.waker().clone()));
            match self.shared.breaker.admit() {
                Decision::Rejected(rejected) => ready!(self.poll_timer(rejected.ask_again, cx)),
                decision => {
                    self.leave(true);
                    return Poll::Ready(decision);
                }
            }
        }
    }

    fn poll_timer(&mut self, at: Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = at else {
            self.timer = None;
            return Poll::Pending;
        };
        match &mut self.timer {
            Some(timer) if timer.deadline() == at => {}
            Some(timer) => timer.as_mut().reset(at),
            None => self.timer = Some(Box::pin(sleep_until(at))),
        }
        match &mut self.timer {
            Some(timer) => timer.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    fn leave(&mut self, went_through: bool) {
        if let Some(place) = self.place.take() {
            self.shared.breaker.stop_waiting(place, went_through);
        }
    }
}

impl<C> Drop for Waiting<C> {
    fn drop(&mut self) {
        self.leave(false);
    }
}
