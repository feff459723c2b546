//! How each rule is found out.
//!
//! The service under test may itself limit to one call at a time, so no check has two of its instances busy at once.
//! Where a sibling is wanted it is a clone of the inner service.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::thread;

use tower_service::Service;

use super::{Contract, Inner, Rule};
use crate::testing::task::{Spawned, SpawnedService};
use crate::testing::{FlakyHandle, PanicPoint, ReservingHandle, Step, panic_message};

/// How often time may pass before a check gives up.
const PATIENCE: usize = 256;

type Checked<T = ()> = Result<T, String>;

macro_rules! ensure {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err(format!($($why)+));
        }
    };
}

/// A service under test, and what its inner service saw.
struct Rig<S, Req, Res, E> {
    service: SpawnedService<S, Req>,
    inner: FlakyHandle<Res, E>,
    slots: ReservingHandle,
    /// Of the inner service.
    sibling: SpawnedService<Inner<Res, E>, Req>,
}

impl<S, Req, Res, E> Rig<S, Req, Res, E> {
    fn new(inner: Inner<Res, E>, make: &mut impl FnMut(Inner<Res, E>) -> S) -> Self {
        Self {
            inner: inner.get_ref().handle(),
            slots: inner.handle(),
            sibling: SpawnedService::new(inner.clone()),
            service: SpawnedService::new(make(inner)),
        }
    }

    fn no_violations(&self) -> Checked {
        let violations = self.inner.violations();
        ensure!(violations.is_empty(), "the inner service saw {violations:?}");
        Ok(())
    }

    /// Nothing of the inner service is reserved, waited for, or in flight.
    fn nothing_held(&self, when: &str) -> Checked {
        let (taken, waiting) = (self.slots.taken(), self.slots.waiting());
        ensure!(taken == 0, "{when}, {taken} inner slots were still held");
        ensure!(waiting == 0, "{when}, {waiting} still waited for an inner slot");
        let in_flight = self.inner.in_flight();
        ensure!(in_flight == 0, "{when}, {in_flight} inner calls were still in flight");
        Ok(())
    }
}

/// A rule's check says what it wants; the bench builds, drives and passes the time.
pub(super) struct Bench<'a, Req, Res, E, Make, Pass> {
    contract: &'a Contract<Req, Res, E>,
    make: &'a mut Make,
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

    pub(super) async fn check(&mut self, rule: Rule) -> Checked {
        match rule {
            Rule::CallsTheReadied => self.calls_the_readied().await,
            Rule::ReadyOnce => self.ready_once().await,
            Rule::ClonesStartUnready => self.clones_start_unready().await,
            Rule::FreesOnDrop => self.frees_on_drop().await,
            Rule::WaitsEmptyHanded => self.waits_empty_handed().await,
            Rule::HoldsNothingIdle => self.holds_nothing_idle().await,
            Rule::CallDoesNotWait => self.call_does_not_wait().await,
            Rule::AnswerBeatsTimer => self.answer_beats_timer().await,
            Rule::NeedsNoRuntime => self.needs_no_runtime(),
            Rule::ErrorsPassThrough => self.errors_pass_through().await,
            Rule::ReadinessErrorsPassOnce => self.readiness_errors_pass_once().await,
            Rule::WakesWaiters => self.wakes_waiters().await,
            Rule::SurvivesPanics => self.survives_panics().await,
            Rule::RefusesInCall | Rule::RefusesBeforeInner => Ok(()),
        }
    }

    // ===== the means =====

    fn rig(&mut self) -> Rig<S, Req, Res, E> {
        Rig::new(self.contract.inner(self.slots), self.make)
    }

    fn request(&self) -> Req {
        (self.contract.request)()
    }

    fn answer_when_released(&self) -> Step<Res, E> {
        Step::AnswerWhenReleased(Ok((self.contract.response)()))
    }

    fn fail_once(&self) -> Step<Res, E> {
        Step::Answer(Err((self.contract.error)()))
    }

    async fn ready<T: Service<Req>>(&mut self, service: &mut SpawnedService<T, Req>) -> Checked
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
        Err("it did not become ready over an inner service that is".to_owned())
    }

    async fn drive<F: Future>(&mut self, future: &mut Spawned<F>) -> Checked<F::Output> {
        for _ in 0..PATIENCE {
            match future.poll() {
                Poll::Ready(output) => return Ok(output),
                Poll::Pending => self.pass_time().await,
            }
        }
        Err(format!("it did not answer in {PATIENCE} polls"))
    }

    /// Readies and calls, without a poll of the future.
    async fn call(&mut self, service: &mut SpawnedService<S, Req>) -> Checked<Spawned<S::Future>> {
        self.ready(service).await?;
        Ok(service.call(self.request()))
    }

    /// A call that the inner service answers well must be answered well.
    async fn round_trip(&mut self, service: &mut SpawnedService<S, Req>) -> Checked {
        let mut future = self.call(service).await?;
        succeeded(self.drive(&mut future).await?)
    }

    /// If the service says it is ready, takes it at its word.
    fn call_if_ready(&self, service: &mut SpawnedService<S, Req>) -> Checked {
        match service.poll_ready() {
            Poll::Ready(Ok(())) => {
                // Refusing is right here, so the answer does not matter.
                let _ = service.call(self.request()).poll();
                Ok(())
            }
            Poll::Ready(Err(error)) => Err(format!("readiness failed: {error:?}")),
            Poll::Pending => Ok(()),
        }
    }

    /// The error is the inner one if its `Debug` text holds that one's.
    fn is_inner_error(&self, error: &S::Error) -> Checked {
        let expected = format!("{:?}", (self.contract.error)());
        let got = format!("{error:?}");
        ensure!(
            got.contains(&expected),
            "the inner service failed with {expected}, and out came {got}"
        );
        Ok(())
    }

    // ===== the rules =====

    async fn calls_the_readied(&mut self) -> Checked {
        let mut rig = self.rig();
        for _ in 0..2 {
            self.round_trip(&mut rig.service).await?;
        }
        self.ready(&mut rig.service).await?;
        let mut clone = SpawnedService::new(rig.service.get_ref().clone());
        let mut future = rig.service.call(self.request());
        succeeded(self.drive(&mut future).await?)?;
        drop(future);
        self.round_trip(&mut clone).await?;
        rig.no_violations()?;

        // Whether it is tried again is the service's business; if it is, then on a readied instance.
        rig.inner.push(self.fail_once());
        let mut future = self.call(&mut rig.service).await?;
        let _ = self.drive(&mut future).await?;
        rig.no_violations()
    }

    async fn ready_once(&mut self) -> Checked {
        let mut rig = self.rig();
        self.ready(&mut rig.service).await?;
        for before in ["", ", and the inner service is not ready for others,"] {
            ensure!(
                matches!(rig.service.poll_ready(), Poll::Ready(Ok(()))),
                "the poll after Ready{before} was not Ready"
            );
            let reserved = rig.slots.reserved();
            ensure!(reserved <= 1, "polling again reserved {reserved} inner slots");
            rig.inner.set_unready();
        }
        rig.inner.set_ready();

        rig.inner.push(self.answer_when_released());
        let mut first = rig.service.call(self.request());
        ensure!(first.poll().is_pending(), "it answered before the inner service did");
        self.call_if_ready(&mut rig.service)?;
        rig.no_violations()?;
        rig.inner.release();
        succeeded(self.drive(&mut first).await?)
    }

    async fn clones_start_unready(&mut self) -> Checked {
        let mut rig = self.rig();
        self.ready(&mut rig.service).await?;
        let mut clone = SpawnedService::new(rig.service.get_ref().clone());
        self.call_if_ready(&mut clone)?;
        drop(clone);
        rig.no_violations()?;
        let mut future = rig.service.call(self.request());
        succeeded(self.drive(&mut future).await?)
    }

    async fn frees_on_drop(&mut self) -> Checked {
        let mut rig = self.rig();
        let mut kept = SpawnedService::new(rig.service.get_ref().clone());

        self.ready(&mut rig.service).await?;
        let readied = rig.service;
        rig.service = SpawnedService::new(kept.get_ref().clone());
        let waker = readied.cancel();
        rig.nothing_held("after the readied service was dropped")?;
        nobody_keeps(waker.holders())?;
        self.round_trip(&mut kept).await?;

        drop(self.call(&mut rig.service).await?);
        rig.nothing_held("after the future was dropped unpolled")?;
        self.round_trip(&mut kept).await?;

        rig.inner.push(self.answer_when_released());
        let mut future = self.call(&mut rig.service).await?;
        ensure!(future.poll().is_pending(), "it answered before the inner service did");
        let waker = future.cancel();
        rig.nothing_held("after the future was dropped pending")?;
        nobody_keeps(waker.holders())?;
        self.round_trip(&mut kept).await?;

        rig.inner.set_unready();
        let mut waiting = SpawnedService::new(kept.get_ref().clone());
        let mut future = None;
        if waiting.poll_ready().is_ready() {
            let mut waits = waiting.call(self.request());
            let _ = waits.poll();
            future = Some(waits);
        }
        let holders =
            future.map_or(0, |future| future.cancel().holders()) + waiting.cancel().holders();
        rig.inner.set_ready();
        rig.nothing_held("after a wait for the inner readiness was abandoned")?;
        nobody_keeps(holders)?;
        self.round_trip(&mut kept).await
    }

    async fn waits_empty_handed(&mut self) -> Checked {
        let mut rig = self.rig();
        rig.inner.set_unready();
        ensure!(
            matches!(rig.service.poll_ready(), Poll::Ready(Ok(()))),
            "over an inner service that is not ready it did not say Ready"
        );
        rig.nothing_held("after Ready")?;
        let mut future = rig.service.call(self.request());
        rig.nothing_held("after `call`, before the first poll")?;
        rig.inner.set_ready();
        succeeded(self.drive(&mut future).await?)
    }

    async fn holds_nothing_idle(&mut self) -> Checked {
        let mut rig = self.rig();
        self.round_trip(&mut rig.service).await?;
        rig.nothing_held("after the answer")?;

        rig.inner.push(self.fail_once());
        let mut future = self.call(&mut rig.service).await?;
        for _ in 0..PATIENCE {
            if future.poll().is_ready() {
                break;
            }
            let (taken, in_flight) = (rig.slots.taken(), rig.inner.in_flight());
            ensure!(
                taken == in_flight,
                "between two attempts it held {taken} inner slots with {in_flight} calls in flight"
            );
            self.pass_time().await;
        }
        drop(future);
        rig.nothing_held("after the error")?;
        self.round_trip(&mut rig.service).await
    }

    async fn call_does_not_wait(&mut self) -> Checked {
        let mut rig = self.rig();
        self.ready(&mut rig.service).await?;
        let before = rig.inner.readiness_polls();
        let mut future = rig.service.call(self.request());
        ensure!(rig.inner.polls() == 0, "`call` polled the inner future itself");
        ensure!(rig.inner.readiness_polls() == before, "`call` polled the inner readiness");
        match future.poll() {
            Poll::Ready(answer) => succeeded(answer),
            Poll::Pending => {
                Err("the first poll was Pending, although the answer was there".into())
            }
        }
    }

    async fn answer_beats_timer(&mut self) -> Checked {
        let mut rig = self.rig();
        rig.inner.push(self.answer_when_released());
        let mut future = self.call(&mut rig.service).await?;
        ensure!(future.poll().is_pending(), "it answered before the inner service did");
        rig.inner.release();
        for _ in 0..PATIENCE {
            self.pass_time().await;
        }
        match future.poll() {
            Poll::Ready(answer) => succeeded(answer),
            Poll::Pending => Err("the poll after the answer was Pending".into()),
        }
    }

    /// On a thread of its own, since this one may be inside a runtime.
    fn needs_no_runtime(&mut self) -> Checked {
        let (request, make) = (Arc::clone(&self.contract.request), &mut *self.make);
        let inner = self.contract.inner(self.slots);
        let alone = move || {
            let mut service = SpawnedService::<S, Req>::new(make(inner));
            ensure!(
                matches!(service.poll_ready(), Poll::Ready(Ok(()))),
                "it was not ready at the first poll"
            );
            match service.call(request()).poll() {
                Poll::Ready(answer) => succeeded(answer),
                Poll::Pending => Err("the first poll was Pending".into()),
            }
        };
        thread::scope(|scope| scope.spawn(alone).join()).unwrap_or_else(|payload| {
            let message = panic_message(&*payload);
            Err(format!("without a runtime it panicked: {message}"))
        })
    }

    async fn errors_pass_through(&mut self) -> Checked {
        let mut rig = self.rig();
        let error = Arc::clone(&self.contract.error);
        rig.inner.otherwise(move || Err(error()));
        let mut future = self.call(&mut rig.service).await?;
        let answer = self.drive(&mut future).await?;
        drop(future);
        match answer {
            Ok(_) => Err("it answered well, although the inner service failed".into()),
            Err(error) => {
                self.is_inner_error(&error)?;
                rig.nothing_held("after the error")
            }
        }
    }

    async fn readiness_errors_pass_once(&mut self) -> Checked {
        let mut rig = self.rig();
        let mut kept = SpawnedService::new(rig.service.get_ref().clone());
        rig.inner.push(Step::FailReadiness((self.contract.error)()));
        let error = match rig.service.poll_ready() {
            Poll::Ready(Err(error)) => Some(error),
            // Who waits in the future asks there.
            Poll::Ready(Ok(())) if self.contract.always_ready => {
                let mut future = rig.service.call(self.request());
                self.drive(&mut future).await?.err()
            }
            Poll::Ready(Ok(())) | Poll::Pending => None,
        };
        match error {
            None => return Err("the error of the inner readiness did not come out".into()),
            Some(error) => self.is_inner_error(&error)?,
        }
        rig.no_violations()?;
        rig.service = SpawnedService::new(kept.get_ref().clone());
        rig.nothing_held("after the failed service was dropped")?;
        self.round_trip(&mut kept).await
    }

    async fn wakes_waiters(&mut self) -> Checked {
        let mut rig = self.rig();
        rig.inner.set_unready();
        let inner = rig.inner.clone();
        self.wakes_the_unready(&mut rig, || inner.set_ready()).await?;

        // A mock's slots never run out.
        if self.slots == 1 {
            self.ready(&mut rig.sibling).await?;
            let taken_up = rig.sibling.call(self.request());
            self.wakes_the_unready(&mut rig, || drop(taken_up)).await?;
        }

        rig.inner.push(self.answer_when_released());
        let mut future = self.call(&mut rig.service).await?;
        stays_asleep(&mut future)?;
        rig.inner.release();
        ensure!(future.is_woken(), "the answer did not wake its future");
        succeeded(self.drive(&mut future).await?)
    }

    /// Starts with an inner service that is not ready, which `free` changes.
    async fn wakes_the_unready(
        &mut self,
        rig: &mut Rig<S, Req, Res, E>,
        free: impl FnOnce(),
    ) -> Checked {
        let first = rig.service.poll_ready();
        if self.contract.always_ready {
            ensure!(
                matches!(first, Poll::Ready(Ok(()))),
                "declared always_ready(), it did not say Ready"
            );
            let mut future = rig.service.call(self.request());
            stays_asleep(&mut future)?;
            free();
            ensure!(
                future.is_woken(),
                "the inner readiness did not wake the future that waits for it"
            );
            return succeeded(self.drive(&mut future).await?);
        }
        ensure!(
            first.is_pending(),
            "it said Ready over an inner service that is not: declare always_ready() if that is meant"
        );
        ensure!(!rig.service.is_woken(), "it was woken although nothing had changed");
        rig.service.hand_over();
        let again = rig.service.poll_ready();
        ensure!(
            again.is_pending() && !rig.service.is_woken(),
            "polled again it did not go on waiting"
        );
        free();
        ensure!(
            rig.service.is_woken(),
            "the inner readiness did not wake the service that waits for it"
        );
        self.round_trip(&mut rig.service).await
    }

    async fn survives_panics(&mut self) -> Checked {
        for point in PanicPoint::ALL {
            let mut rig = self.rig();
            let mut kept = SpawnedService::new(rig.service.get_ref().clone());
            rig.inner.push(point.step());
            let mut future = None;
            let request = self.request();
            let came_out = catch_unwind(AssertUnwindSafe(|| {
                if rig.service.poll_ready().is_ready() {
                    let future = future.insert(rig.service.call(request));
                    let _ = future.poll();
                }
            }))
            .is_err();
            ensure!(came_out, "the panic in {point:?} did not come out");
            drop(future);
            rig.service = SpawnedService::new(kept.get_ref().clone());
            rig.nothing_held(&format!("after a panic in {point:?}"))?;
            self.round_trip(&mut kept)
                .await
                .map_err(|why| format!("after a panic in {point:?} a sibling failed: {why}"))?;
        }
        Ok(())
    }
}

fn succeeded<Res, E: fmt::Debug>(answer: Result<Res, E>) -> Checked {
    match answer {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(format!("it failed, although the inner service answered well: {error:?}"))
        }
    }
}

fn nobody_keeps(holders: usize) -> Checked {
    ensure!(holders == 0, "{holders} wakers of a dropped waiter were still kept");
    Ok(())
}

/// Polls a future that has to wait, in one task and then in another.
fn stays_asleep<F: Future>(future: &mut Spawned<F>) -> Checked {
    for _ in 0..2 {
        future.hand_over();
        ensure!(future.poll().is_pending(), "it answered before the inner service did");
        ensure!(!future.is_woken(), "it was woken although nothing had changed");
    }
    Ok(())
}

/// Both rules of refusing. Neither waits for anything.
pub(super) fn refuses<S, Req, Res, E>(
    contract: &Contract<Req, Res, E>,
    make: &mut impl FnMut(Inner<Res, E>) -> S,
    rule: Rule,
    slots: usize,
) -> Checked
where
    S: Service<Req>,
    Res: 'static,
    E: 'static,
{
    let mut rig = Rig::new(contract.inner(slots), make);
    if rule == Rule::RefusesInCall {
        // It must not be the inner service that decides how soon a refusal comes.
        rig.inner.set_unready();
        for poll in 1..=3 {
            match rig.service.poll_ready() {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Err("it refused in `poll_ready`".into()),
                Poll::Pending => return Err(format!("poll {poll} of readiness was Pending")),
            }
        }
        return match rig.service.call((contract.request)()).poll() {
            Poll::Ready(Err(_)) => Ok(()),
            Poll::Ready(Ok(_)) => Err("it did not refuse".into()),
            Poll::Pending => Err("the first poll of the refusal was Pending".into()),
        };
    }

    let sibling_goes_on = |rig: &mut Rig<S, Req, Res, E>| {
        let goes_on = matches!(rig.sibling.poll_ready(), Poll::Ready(Ok(())));
        // Gives back what it reserved.
        rig.sibling = SpawnedService::new(rig.sibling.get_ref().clone());
        goes_on
    };
    let _ = rig.service.poll_ready();
    rig.nothing_held("ready to refuse")?;
    ensure!(rig.inner.readiness_polls() == 0, "it polled the inner readiness before it refused");
    ensure!(sibling_goes_on(&mut rig), "ready to refuse, it kept a sibling from getting ready");
    let before = rig.inner.readiness_polls();
    drop(rig.service.call((contract.request)()));
    let _ = rig.service.poll_ready();
    let _ = rig.service.call((contract.request)()).poll();
    rig.nothing_held("after the refusal")?;
    ensure!(rig.inner.calls() == 0, "it called the inner service");
    ensure!(
        rig.inner.readiness_polls() == before,
        "it polled the inner readiness after it had refused"
    );
    ensure!(sibling_goes_on(&mut rig), "after the refusal a sibling could not get ready");
    Ok(())
}
