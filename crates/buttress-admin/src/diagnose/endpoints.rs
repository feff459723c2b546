//! Endpoints that get no calls.

use super::diagnosis::{
    Found,
    Severity::{Critical, Warning},
    Whose::{Hand, Them, Us},
};
use crate::{
    snapshot::{Endpoints, Snapshot},
    words::Count,
};

/// Returns a clause such as "2 failed too often in a row, and the check of 1 fails".
fn reasons(endpoints: &Endpoints) -> String {
    let ejected = format!("{} failed too often in a row", endpoints.ejected);
    let failed = match endpoints.check_failed {
        1 => "the check of 1 fails".to_owned(),
        more => format!("the checks of {more} fail"),
    };
    match (endpoints.ejected, endpoints.check_failed) {
        (_, 0) => ejected,
        (0, _) => failed,
        _ => format!("{ejected}, and {failed}"),
    }
}

/// There is no endpoint that works.
pub(super) fn none_usable(snapshot: &Snapshot) -> Found {
    let endpoints = snapshot.endpoints.as_ref().filter(|it| it.usable == 0)?;
    let (all, out) = (endpoints.all(), endpoints.out());
    if all == 0 {
        let text = "There are no endpoints: none was added, or all were removed.";
        return Some((Us, Critical, text.to_owned()));
    }
    if out == 0 {
        let text = format!("No call reaches the dependency: {} drained.", all_are(all));
        return Some((Hand, Critical, text));
    }
    let reasons = reasons(endpoints);
    let others = match endpoints.draining {
        0 => "They".to_owned(),
        1 => "1 is drained. The others".to_owned(),
        drained => format!("{drained} are drained. The others"),
    };
    let text = format!(
        "None of {} is usable: {reasons}. {others} still get calls, because there are no better \
         ones.",
        Count(all, "endpoint")
    );
    Some((Them, Critical, text))
}

fn all_are(all: u64) -> String {
    match all {
        1 => "the only endpoint is".to_owned(),
        _ => format!("all of {} are", Count(all, "endpoint")),
    }
}

/// Some endpoints are out, and the others get their calls.
pub(super) fn some_out(snapshot: &Snapshot) -> Found {
    let endpoints = snapshot.endpoints.as_ref().filter(|it| it.out() > 0)?;
    let (all, out) = (endpoints.all(), endpoints.out());
    let is = if out == 1 { "is" } else { "are" };
    let text = format!("{out} of {} {is} out: {}.", Count(all, "endpoint"), reasons(endpoints));
    Some((Them, if out * 2 >= all { Critical } else { Warning }, text))
}
