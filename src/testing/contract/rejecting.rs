//! The checks of the rules about rejections.

use std::task::Poll;

use tower_service::Service;

use super::{
    bench::{Checked, Rig, ensure},
    declared::{Contract, Inner},
    rule::Rule,
};
use crate::testing::task::SpawnedService;

/// Checks one of the rules about rejections. Neither waits for anything.
pub(super) fn rejects<S, Req, Res, E>(
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
    if rule == Rule::RejectsInCall {
        // It must not be the inner service that decides how soon a refusal comes.
        rig.inner.set_unready();
        for poll in 1..=3 {
            match rig.service.poll_ready() {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Err("it rejected in `poll_ready`".into()),
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
    ensure!(rig.inner.readiness_polls() == 0, "it polled the inner readiness before it rejected");
    ensure!(sibling_goes_on(&mut rig), "ready to refuse, it kept a sibling from getting ready");
    let before = rig.inner.readiness_polls();
    drop(rig.service.call((contract.request)()));
    let _ = rig.service.poll_ready();
    let _ = rig.service.call((contract.request)()).poll();
    rig.nothing_held("after the refusal")?;
    ensure!(rig.inner.calls() == 0, "it called the inner service");
    ensure!(
        rig.inner.readiness_polls() == before,
        "it polled the inner readiness after it had rejected"
    );
    ensure!(sibling_goes_on(&mut rig), "after the refusal a sibling could not get ready");
    Ok(())
}
