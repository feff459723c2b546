//! The contract checks of a row.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
};

use buttress::testing::{
    Report,
    contract::{Contract, Inner},
};
use tower::{Layer, Service};

use super::{
    TICK,
    row::{Effect, Row, Text},
};

/// Checks every general rule, each with a new layer, which holds nothing afterwards.
pub(crate) async fn keeps_rules<L, Req, Res, E>(
    name: &str,
    contract: Contract<Req, Res, E>,
    make: impl Fn() -> Row<L> + Send + Sync,
) -> Report
where
    L: Layer<Inner<Res, E>, Service: Service<Req, Error: fmt::Debug> + Clone>,
    Res: Send + 'static,
    E: fmt::Debug + Send + 'static,
{
    let contract = if make().always_ready { contract.always_ready() } else { contract };
    let mut idle = Vec::new();
    let subject = |inner| {
        let mut row = make();
        let service = row.layer.layer(inner);
        idle.append(&mut row.take_checks());
        service
    };
    // Every limit of a layer ends within 256 ticks.
    let report = contract.check_with(subject, || tokio::time::advance(TICK)).await;
    let idle = catch_unwind(AssertUnwindSafe(|| idle.iter().for_each(|check| check())));
    assert!(idle.is_ok(), "{name} is not idle after its checks");
    report
}

/// Checks the rules about rejections, behind each obstacle that makes the layer reject.
pub(crate) fn rejects_by_rules<L, Req, Res, E>(
    contract: &Contract<Req, Res, E>,
    row: &Row<L>,
) -> Vec<(Text, Report)>
where
    L: Layer<Inner<Res, E>, Service: Service<Req>>,
    Res: 'static,
    E: 'static,
{
    let mut reports = Vec::new();
    for obstacle in &row.obstacles {
        if let Effect::Rejects(_) = obstacle.effect {
            let held = (obstacle.hold)();
            reports.push((obstacle.name, contract.check_rejecting(|inner| row.layer.layer(inner))));
            drop(held);
            row.assert_idle();
        }
    }
    reports
}
