//! Faults on purpose.

use super::diagnosis::{
    Found,
    Severity::{Critical, Warning},
    Whose::Hand,
};
use crate::{
    snapshot::Snapshot,
    words::{Count, were, window},
};

/// Somebody armed a chaos layer, which explains all else.
pub(super) fn armed(snapshot: &Snapshot) -> Found {
    let chaos = snapshot.chaos.as_ref().filter(|chaos| chaos.armed > 0)?;
    let faults: u64 = chaos.faults.iter().map(|it| it.count).sum();
    let mut text = "Chaos is armed: faults are injected on purpose.".to_owned();
    if let Some(most) = chaos.faults.first() {
        let (injected, were, window) =
            (Count(faults, "fault"), were(faults), window(snapshot.seconds));
        let kind = most.cause.replace('_', " ");
        text += &format!(" {injected} {were} injected {window}, most of the kind {kind}.");
    }
    if chaos.hung > 0 {
        let hang = if chaos.hung == 1 { "hangs" } else { "hang" };
        text += &format!(" {} {hang}.", Count(chaos.hung, "call"));
    }
    let severity = if faults + chaos.hung > 0 { Critical } else { Warning };
    Some((Hand, severity, text))
}
