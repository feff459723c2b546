//! The parts of the checks: a service under test over an inner service, driven by hand.
//!
//! The service under test may admit one call at a time. Therefore, no check keeps two of its
//! instances busy at once. A sibling is a clone of the inner service.

use std::{fmt, task::Poll};

use tower_service::Service;

use super::declared::{Contract, Inner};
use crate::testing::{
    FlakyHandle, ReservingHandle, Step,
    task::{Spawned, SpawnedService},
};

/// The number of times that a check lets time pass before it gives up.
pub(super) const PATIENCE: usize = 256;

pub(super) type Checked<T = ()> = Result<T, String>;

macro_rules! ensure {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err(format!($($why)+));
        }
    };
}
pub(super) use ensure;

/// A service under test, and the handles of its inner service.
pub(super) struct Rig<S, Req, Res, E> {
    pub(super) service: SpawnedService<S, Req>,
    pub(super) inner: FlakyHandle<Res, E>,
    pub(super) slots: ReservingHandle,
    /// A clone of the inner service.
    pub(super) sibling: SpawnedService<Inner<Res, E>, Req>,
}

impl<S, Req, Res, E> Rig<S, Req, Res, E> {
    pub(super) fn new(inner: Inner<Res, E>, make: &mut impl FnMut(Inner<Res, E>) -> S) -> Self {
        Self {
            inner: inner.get_ref().handle(),
            slots: inner.handle(),
            sibling: SpawnedService::new(inner.clone()),
            service: SpawnedService::new(make(inner)),
        }
    }

    pub(super) fn no_violations(&self) -> Checked {
        let violations = self.inner.violations();
        ensure!(violations.is_empty(), "the inner service saw {violations:?}");
        Ok(())
    }

    /// Checks that nothing of the inner service is reserved, waited for or in flight.
    pub(super) fn nothing_held(&self, when: &str) -> Checked {
        let (taken, waiting) = (self.slots.taken(), self.slots.waiting());
        ensure!(taken == 0, "{when}, {taken} inner slots were still held");
        ensure!(waiting == 0, "{when}, {waiting} still waited for an inner slot");
        let in_flight = self.inner.in_flight();
        ensure!(in_flight == 0, "{when}, {in_flight} inner calls were still in flight");
        Ok(())
    }
}

/// Builds and drives services under test for the checks, and lets time pass.
pub(super) struct Bench<'a, Req, Res, E, Make, Pass> {
    pub(super) contract: &'a Contract<Req, Res, E>,
    pub(super) make: &'a mut Make,
    pass: Pass,
    pub(super) slots: usize,
}

impl<'a, Req, Res, E, Make, Pass, S, Passing> Bench<'a, Req, Res, E, Make, Pass>
where
    Make: FnMut(Inner<Res, E>) -> S + Send,
    S: Service<Req> + Clone,
    S::Error: fmt::Debug,
    Pass: FnMut() -> Passing,
    Passing: Future<Output = ()>,
    Res: Send + 'static,
    E: fmt::Debug + Send + 'static,
{
    pub(super) const fn new(
        contract: &'a Contract<Req, Res, E>,
        make: &'a mut Make,
        pass: Pass,
    ) -> Self {
        Self { contract, make, pass, slots: 1 }
    }

    pub(super) async fn pass_time(&mut self) {
        (self.pass)().await;
    }

    pub(super) fn rig(&mut self) -> Rig<S, Req, Res, E> {
        Rig::new(self.contract.inner(self.slots), self.make)
    }

    pub(super) fn request(&self) -> Req {
        (self.contract.request)()
    }

    pub(super) fn answer_when_released(&self) -> Step<Res, E> {
        Step::RespondWhenReleased(Ok((self.contract.response)()))
    }

    pub(super) fn fail_once(&self) -> Step<Res, E> {
        Step::Respond(Err((self.contract.error)()))
    }

    pub(super) async fn ready<T: Service<Req>>(
        &mut self,
        service: &mut SpawnedService<T, Req>,
    ) -> Checked
    where
        T::Error: fmt::Debug,
    {
        for _ in 0..PATIENCE {
            match service.poll_ready() {
                Poll::Ready(Ok(())) => return Ok(()),
                Poll::Ready(Err(error)) => return Err(format!("readiness failed: {error:?}")),
                Poll::Pending => self.pass_time().await,
            }
        }
        Err("it did not become ready over a ready inner service".to_owned())
    }

    pub(super) async fn drive<F: Future>(&mut self, future: &mut Spawned<F>) -> Checked<F::Output> {
        for _ in 0..PATIENCE {
            match future.poll() {
                Poll::Ready(output) => return Ok(output),
                Poll::Pending => self.pass_time().await,
            }
        }
        Err(format!("it did not complete in {PATIENCE} polls"))
    }

    /// Readies and calls the service, without polling the future.
    pub(super) async fn call(
        &mut self,
        service: &mut SpawnedService<S, Req>,
    ) -> Checked<Spawned<S::Future>> {
        self.ready(service).await?;
        Ok(service.call(self.request()))
    }

    /// Checks that a call succeeds when the inner service does.
    pub(super) async fn round_trip(&mut self, service: &mut SpawnedService<S, Req>) -> Checked {
        let mut future = self.call(service).await?;
        succeeded(self.drive(&mut future).await?)
    }

    /// Calls the service if it reports `Ready`.
    pub(super) fn call_if_ready(&self, service: &mut SpawnedService<S, Req>) -> Checked {
        match service.poll_ready() {
            Poll::Ready(Ok(())) => {
                // The result does not matter, because a rejection is correct too.
                let _ = service.call(self.request()).poll();
                Ok(())
            }
            Poll::Ready(Err(error)) => Err(format!("readiness failed: {error:?}")),
            Poll::Pending => Ok(()),
        }
    }

    /// Checks that the `Debug` text of the error contains the text of the inner error.
    pub(super) fn is_inner_error(&self, error: &S::Error) -> Checked {
        let expected = format!("{:?}", (self.contract.error)());
        let got = format!("{error:?}");
        ensure!(
            got.contains(&expected),
            "the inner service failed with {expected}, but the call failed with {got}"
        );
        Ok(())
    }
}

pub(super) fn succeeded<Res, E: fmt::Debug>(answer: Result<Res, E>) -> Checked {
    match answer {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(format!("the call failed although the inner service succeeded: {error:?}"))
        }
    }
}

pub(super) fn nobody_keeps(holders: usize) -> Checked {
    ensure!(holders == 0, "{holders} wakers of a dropped waiter were still held");
    Ok(())
}

/// Checks that a future stays pending and asleep, in one task and then in another.
pub(super) fn stays_asleep<F: Future>(future: &mut Spawned<F>) -> Checked {
    for _ in 0..2 {
        future.hand_over();
        ensure!(future.poll().is_pending(), "it completed before the inner service did");
        ensure!(!future.is_woken(), "it was woken although nothing had changed");
    }
    Ok(())
}
