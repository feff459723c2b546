//! The check of each general rule.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::Poll,
    thread,
};

use tower_service::Service;

use super::{
    bench::{Bench, Checked, PATIENCE, Rig, ensure, nobody_keeps, stays_asleep, succeeded},
    declared::Inner,
    rule::Rule,
};
use crate::testing::{PanicPoint, Step, panics::panic_message, task::SpawnedService};

impl<Req, Res, E, Make, Pass, S, Passing> Bench<'_, Req, Res, E, Make, Pass>
where
    Make: FnMut(Inner<Res, E>) -> S + Send,
    S: Service<Req> + Clone,
    S::Error: fmt::Debug,
    Pass: FnMut() -> Passing,
    Passing: Future<Output = ()>,
    Res: Send + 'static,
    E: fmt::Debug + Send + 'static,
{
    pub(super) async fn check(&mut self, rule: Rule) -> Checked {
        match rule {
            Rule::CallsTheReadied => self.calls_the_readied().await,
            Rule::ReadyOnce => self.ready_once().await,
            Rule::ClonesStartUnready => self.clones_start_unready().await,
            Rule::FreesOnDrop => self.frees_on_drop().await,
            Rule::WaitsEmptyHanded => self.waits_empty_handed().await,
            Rule::HoldsNothingIdle => self.holds_nothing_idle().await,
            Rule::CallDoesNotWait => self.call_does_not_wait().await,
            Rule::ResponseBeatsTimer => self.answer_beats_timer().await,
            Rule::NeedsNoRuntime => self.needs_no_runtime(),
            Rule::ErrorsPassThrough => self.errors_pass_through().await,
            Rule::ReadinessErrorsPassOnce => self.readiness_errors_pass_once().await,
            Rule::WakesWaiters => self.wakes_waiters().await,
            Rule::SurvivesPanics => self.survives_panics().await,
            Rule::RejectsInCall | Rule::RejectsBeforeInner => Ok(()),
        }
    }

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

        // The service may retry or not. If it does, it must use a readied instance.
        rig.inner.push(self.fail_once());
        let mut future = self.call(&mut rig.service).await?;
        let _ = self.drive(&mut future).await?;
        rig.no_violations()
    }

    async fn ready_once(&mut self) -> Checked {
        let mut rig = self.rig();
        self.ready(&mut rig.service).await?;
        for before in ["", " (with the inner service set unready)"] {
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
        ensure!(first.poll().is_pending(), "it completed before the inner service did");
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
        ensure!(future.poll().is_pending(), "it completed before the inner service did");
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
            "it did not report Ready over an unready inner service"
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
        rig.nothing_held("after the response")?;

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
        ensure!(rig.inner.polls() == 0, "`call` polled the inner future");
        ensure!(rig.inner.readiness_polls() == before, "`call` polled the inner readiness");
        match future.poll() {
            Poll::Ready(answer) => succeeded(answer),
            Poll::Pending => {
                Err("the first poll was Pending although the response was ready".into())
            }
        }
    }

    async fn answer_beats_timer(&mut self) -> Checked {
        let mut rig = self.rig();
        rig.inner.push(self.answer_when_released());
        let mut future = self.call(&mut rig.service).await?;
        ensure!(future.poll().is_pending(), "it completed before the inner service did");
        rig.inner.release();
        for _ in 0..PATIENCE {
            self.pass_time().await;
        }
        match future.poll() {
            Poll::Ready(answer) => succeeded(answer),
            Poll::Pending => Err("the poll was Pending although the response was ready".into()),
        }
    }

    /// Runs on a separate thread, because this one may be inside a runtime.
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
            Ok(_) => Err("it succeeded although the inner service failed".into()),
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
            // An always-ready service polls the inner readiness in its future.
            Poll::Ready(Ok(())) if self.contract.always_ready => {
                let mut future = rig.service.call(self.request());
                self.drive(&mut future).await?.err()
            }
            Poll::Ready(Ok(())) | Poll::Pending => None,
        };
        match error {
            None => return Err("it did not return the error of the inner readiness".into()),
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

        // The slots of the mock never run out.
        if self.slots == 1 {
            self.ready(&mut rig.sibling).await?;
            let taken_up = rig.sibling.call(self.request());
            self.wakes_the_unready(&mut rig, || drop(taken_up)).await?;
        }

        rig.inner.push(self.answer_when_released());
        let mut future = self.call(&mut rig.service).await?;
        stays_asleep(&mut future)?;
        rig.inner.release();
        ensure!(future.is_woken(), "the response did not wake the future");
        succeeded(self.drive(&mut future).await?)
    }

    /// Starts with an unready inner service, which `free` makes ready.
    async fn wakes_the_unready(
        &mut self,
        rig: &mut Rig<S, Req, Res, E>,
        free: impl FnOnce(),
    ) -> Checked {
        let first = rig.service.poll_ready();
        if self.contract.always_ready {
            ensure!(
                matches!(first, Poll::Ready(Ok(()))),
                "it is declared always_ready(), but did not report Ready"
            );
            let mut future = rig.service.call(self.request());
            stays_asleep(&mut future)?;
            free();
            ensure!(
                future.is_woken(),
                "the inner readiness did not wake the future that waited for it"
            );
            return succeeded(self.drive(&mut future).await?);
        }
        ensure!(
            first.is_pending(),
            "it reported Ready over an unready inner service: \
             declare always_ready() if this is intended"
        );
        ensure!(!rig.service.is_woken(), "it was woken although nothing had changed");
        rig.service.hand_over();
        let again = rig.service.poll_ready();
        ensure!(
            again.is_pending() && !rig.service.is_woken(),
            "polled again, it was ready or woken although nothing had changed"
        );
        free();
        ensure!(
            rig.service.is_woken(),
            "the inner readiness did not wake the service that waited for it"
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
            ensure!(came_out, "the panic in {point:?} was not propagated");
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
