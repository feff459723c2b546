//! The checks of the rules about rejections.

use std::task::Poll;

use tower_service::Service;

use super::{
    bench::{Checked, Rig, ensure},
    declared::{Contract, Inner},
    rule::Rule,
};
use crate::testing::task::SpawnedService;

/// Checks one of the two rules about rejections, neither of which waits.
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
        // A rejection must not wait for the inner service.
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
            Poll::Ready(Ok(_)) => Err("it did not reject".into()),
            Poll::Pending => Err("the first poll of the rejection was Pending".into()),
        };
    }

    let sibling_goes_on = |rig: &mut Rig<S, Req, Res, E>| {
        let goes_on = matches!(rig.sibling.poll_ready(), Poll::Ready(Ok(())));
        // Frees the reservation of the sibling.
        rig.sibling = SpawnedService::new(rig.sibling.get_ref().clone());
        goes_on
    };
    let _ = rig.service.poll_ready();
    rig.nothing_held("before the rejection")?;
    ensure!(rig.inner.readiness_polls() == 0, "it polled the inner readiness before it rejected");
    ensure!(sibling_goes_on(&mut rig), "before the rejection, a sibling could not become ready");
    let before = rig.inner.readiness_polls();
    drop(rig.service.call((contract.request)()));
    let _ = rig.service.poll_ready();
    let _ = rig.service.call((contract.request)()).poll();
    rig.nothing_held("after the rejection")?;
    ensure!(rig.inner.calls() == 0, "it called the inner service");
    ensure!(
        rig.inner.readiness_polls() == before,
        "it polled the inner readiness after it had rejected"
    );
    ensure!(sibling_goes_on(&mut rig), "after the rejection, a sibling could not become ready");
    Ok(())
}
