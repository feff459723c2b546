//! The report of a timeout for [`Stack::explain`](crate::Stack::explain).

use std::time::Duration;

use super::{
    config::KnownLimit,
    layer::{TimeoutLayer, TotalTimeoutLayer},
};
use crate::{
    describe::{Describe, Fact, Facts, UpTo},
    sealed::Sealed,
};

/// The limit of the whole call. It has no value if the limit depends on the request.
pub(crate) const TOTAL_LIMIT: Fact<Duration> = Fact::new("limit of the total timeout");
/// The limit of an attempt. It has no value if the limit depends on the request.
pub(crate) const ATTEMPT_LIMIT: Fact<Duration> = Fact::new("limit of the attempt timeout");

impl<L> Sealed for TimeoutLayer<L> {}
impl<L> Sealed for TotalTimeoutLayer<L> {}

impl<L: KnownLimit> Describe for TotalTimeoutLayer<L> {
    fn describe(&self, facts: &mut Facts) {
        describe("total timeout", TOTAL_LIMIT, self.known_limit(), facts);
    }
}

impl<L: KnownLimit> Describe for TimeoutLayer<L> {
    fn describe(&self, facts: &mut Facts) {
        describe("attempt timeout", ATTEMPT_LIMIT, self.known_limit(), facts);
    }
}

fn describe(layer: &str, fact: Fact<Duration>, limit: Option<Duration>, facts: &mut Facts) {
    let Some(limit) = limit else {
        facts.line(layer, "per request");
        return facts.note(fact);
    };
    facts.line(layer, UpTo(limit));
    if limit.is_zero() {
        facts.warn("zero_timeout", "a timeout of zero admits only calls that complete at once");
    }
    facts.put(fact, limit);
}
