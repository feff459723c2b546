//! The report of a bulkhead for [`Stack::explain`](crate::Stack::explain).

use std::time::Duration;

use super::layer::{BulkheadLayer, QueuedBulkheadLayer};
use crate::{
    describe::{Describe, Fact, Facts, UpTo, fact},
    sealed::Sealed,
};

/// The longest time that a call waits in the queue.
pub(crate) const QUEUE_WAIT: Fact<Duration> = Fact::new("wait in the queue");

impl Sealed for BulkheadLayer {}
impl Sealed for QueuedBulkheadLayer {}

impl Describe for BulkheadLayer {
    fn describe(&self, facts: &mut Facts) {
        let then = if self.is_backpressure() {
            facts.note(fact::PUSHES_BACK);
            "then pushes back"
        } else {
            "then rejects"
        };
        let limit = self.handle().limit();
        facts.line("bulkhead", format_args!("{limit} concurrent calls, {then}"));
    }
}

impl Describe for QueuedBulkheadLayer {
    fn describe(&self, facts: &mut Facts) {
        let (limit, capacity, wait) = (self.handle().limit(), self.capacity(), self.max_wait());
        let text = format_args!("{limit} concurrent calls, {capacity} more queued {}", UpTo(wait));
        facts.line("bulkhead", text);
        facts.put(QUEUE_WAIT, wait);
        facts.note(fact::WAITS_FOR_READINESS);
    }
}
