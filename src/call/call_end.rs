//! The values that a response holds until the end of its call.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::Span;

use super::{
    account::{Account, Entry, How, Stamp},
    held::{Counted, Held, RecordEnd, SharedEnd, SpanEntry},
};
#[cfg(feature = "http")]
use crate::Fault;
use crate::Outcome;

/// The admissions and spans of a call, which a response holds until its end.
///
/// The layers add them from the inside out, and they are settled in that order. Only the first
/// method that ends the call has an effect. Dropping the value before the end is the same as
/// [`dropped_while_reading`](Self::dropped_while_reading) with a time of zero.
pub struct CallEnd {
    place: Place,
}

/// The place of the values that a call holds.
#[expect(clippy::large_enum_variant, reason = "most ends are not shared, and a box allocates")]
enum Place {
    Own(Held),
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "only HTTP shares an end"))]
    Shared(SharedEnd),
}

impl CallEnd {
    /// Creates the end of a response that has just arrived.
    #[inline]
    pub fn new() -> Self {
        Self { place: Place::Own(Held::EMPTY) }
    }

    /// Creates the end of a response that has failed before its layers get it.
    ///
    /// Each value that a layer adds is settled at once.
    #[cfg(feature = "http")]
    pub(crate) fn failed(fault: Fault, error_type: &'static str) -> Self {
        let mut end = Self::new();
        let how = How::Complete(Outcome::Failure(fault), Some(error_type));
        drop(end.share().end(how, Duration::ZERO));
        end
    }

    /// Returns the outcome and the cause of a response that has failed before its layers got it.
    #[inline]
    pub(crate) fn failure(&self) -> Option<(Outcome, Option<&'static str>)> {
        match &self.place {
            Place::Own(_) => None,
            Place::Shared(shared) => shared.failure(),
        }
    }

    /// Holds an admission until the end of the response.
    #[inline]
    pub(crate) fn hold(&mut self, account: Arc<dyn Account>, stamp: Stamp) {
        let entry = Entry::new(account, stamp);
        match &mut self.place {
            Place::Own(held) => held.hold(entry),
            Place::Shared(shared) => shared.hold(entry),
        }
    }

    /// Holds a span until the end of the response, which `record` then records in the span.
    pub(crate) fn hold_span(&mut self, span: Span, record: RecordEnd, counted: Counted) {
        let entry = SpanEntry::new(span, record, counted);
        match &mut self.place {
            Place::Own(held) => held.hold_span(entry),
            Place::Shared(shared) => shared.hold_span(entry),
        }
    }

    /// Reads or sets the instant at which the head arrived.
    #[inline]
    fn with_head<T>(&mut self, piece: impl FnOnce(&mut Option<Instant>) -> T) -> T {
        match &mut self.place {
            Place::Own(held) => piece(&mut held.head),
            Place::Shared(shared) => shared.with_head(piece),
        }
    }

    /// Returns the instant at which the head arrived.
    pub(crate) fn head(&mut self) -> Instant {
        self.with_head(|head| *head.get_or_insert_with(Instant::now))
    }

    /// Returns the same instant and its age, which is zero for the first account that asks.
    pub(crate) fn head_and_age(&mut self) -> (Instant, Duration) {
        self.with_head(|head| match *head {
            Some(head) => (head, head.elapsed()),
            None => (*head.insert(Instant::now()), Duration::ZERO),
        })
    }

    /// Shares the end with a second owner.
    #[cfg(feature = "http")]
    pub(crate) fn share(&mut self) -> SharedEnd {
        let shared = match &mut self.place {
            Place::Own(held) => SharedEnd::new(std::mem::replace(held, Held::EMPTY)),
            Place::Shared(shared) => shared.clone(),
        };
        self.place = Place::Shared(shared.clone());
        shared
    }

    /// Completes the call. The response ran to its end with `outcome`.
    ///
    /// `waited` is the total time that the caller has waited in reads since the head. Other time
    /// since the head does not count as time of the call, because the caller did not read then.
    pub fn complete(&mut self, outcome: Outcome, waited: Duration) {
        self.complete_as(outcome, None, waited);
    }

    /// Completes the call, and says the cause of a failure.
    ///
    /// It does what [`complete`](Self::complete) does. `error_type` is as that of
    /// [`Classify::error_type`](crate::Classify::error_type).
    pub fn complete_as(
        &mut self,
        outcome: Outcome,
        error_type: Option<&'static str>,
        waited: Duration,
    ) {
        self.settle(How::Complete(outcome, error_type), waited);
    }

    /// Ignores the caller's deadline when the outcome is counted.
    ///
    /// Call it before [`complete`](Self::complete) for a response that exceeded a limit of its own.
    /// A breaker then counts the timeout as a failure, even if the caller had little time left.
    pub fn ignore_deadline(&mut self) {
        match &mut self.place {
            Place::Own(held) => held.ignore_deadline(),
            Place::Shared(shared) => shared.ignore_deadline(),
        }
    }

    /// Ends the call of a body that was dropped while no read was pending, after a successful head.
    ///
    /// The call counts as a success.
    pub fn dropped_between_reads(&mut self) {
        self.settle(How::DroppedBetweenReads, Duration::ZERO);
    }

    /// Ends the call of a body that was dropped before its end, while a read was pending.
    ///
    /// `waited` is the time that this read has been pending. Only this time counts against the
    /// service.
    pub fn dropped_while_reading(&mut self, waited: Duration) {
        self.settle(How::DroppedWhileReading, waited);
    }

    /// Ends the call as a panic, because the body panicked.
    pub fn panicked(&mut self) {
        self.settle(How::Panicked, Duration::ZERO);
    }

    fn settle(&mut self, how: How, waited: Duration) {
        match &mut self.place {
            Place::Own(held) => held.settle(how, waited),
            Place::Shared(shared) => {
                if let Some(ending) = shared.end(how, waited) {
                    ending.settle();
                }
            }
        }
    }
}

impl Default for CallEnd {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for CallEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = match &self.place {
            Place::Own(held) => held.len(),
            Place::Shared(shared) => shared.len(),
        };
        f.debug_struct("CallEnd").field("held", &held).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        sync::Mutex,
    };

    use super::*;
    use crate::call::{account::End, lock::lock};

    /// An account that stores the end of each admission, or panics.
    struct Noting {
        seen: Mutex<Vec<(u64, How)>>,
        panics_at: u64,
    }

    impl Account for Noting {
        fn settle(&self, stamp: Stamp, end: &End) {
            assert!(stamp.word() != self.panics_at, "a waker panics");
            lock(&self.seen).push((stamp.word(), end.how));
        }
    }

    /// Creates the end of a response with five admissions, one of which panics when it is settled.
    fn holding_five(panics_at: u64) -> (CallEnd, Arc<Noting>) {
        let noting = Arc::new(Noting { seen: Mutex::default(), panics_at });
        let mut end = CallEnd::new();
        for word in 0..5 {
            end.hold(Arc::clone(&noting) as _, Stamp::new(word, None));
        }
        (end, noting)
    }

    #[test]
    fn an_account_that_panics_leaves_none_of_the_others_unsettled() {
        let ends: [fn(CallEnd); 3] = [
            |mut end| end.complete(Outcome::Success, Duration::ZERO),
            |mut end| end.panicked(),
            |end| drop(end),
        ];
        for end_it in ends {
            for panics_at in 0..5 {
                let (end, noting) = holding_five(panics_at);
                assert!(catch_unwind(AssertUnwindSafe(|| end_it(end))).is_err());
                let mut settled: Vec<u64> =
                    lock(&noting.seen).iter().map(|(word, _)| *word).collect();
                settled.sort_unstable();
                let others: Vec<u64> = (0..5).filter(|word| *word != panics_at).collect();
                assert_eq!(settled, others);
            }
        }
    }

    #[test]
    fn accounts_are_settled_once_and_in_order() {
        let (mut end, noting) = holding_five(u64::MAX);
        end.complete(Outcome::Success, Duration::ZERO);
        end.panicked();
        drop(end);
        let expected: Vec<_> =
            (0..5).map(|word| (word, How::Complete(Outcome::Success, None))).collect();
        assert_eq!(*lock(&noting.seen), expected);
    }

    #[cfg(feature = "http")]
    #[test]
    fn a_shared_end_is_settled_once_by_either_owner() {
        for first in [true, false] {
            let (mut end, noting) = holding_five(u64::MAX);
            let shared = end.share();
            end.hold(Arc::clone(&noting) as _, Stamp::new(5, None));
            let ending = shared.end(How::DroppedBetweenReads, Duration::ZERO).unwrap();
            end.complete(Outcome::Success, Duration::ZERO);
            if first {
                ending.settle();
            } else {
                drop(ending);
            }
            let how = if first { How::DroppedBetweenReads } else { How::DroppedWhileReading };
            let expected: Vec<_> = (0..6).map(|word| (word, how)).collect();
            assert_eq!(*lock(&noting.seen), expected);
            assert!(shared.end(How::Panicked, Duration::ZERO).is_none());
        }
    }

    #[cfg(feature = "http")]
    #[test]
    fn a_layer_that_comes_after_the_end_is_settled_in_the_same_way() {
        for how in [How::DroppedBetweenReads, How::Complete(Outcome::Success, None), How::Panicked]
        {
            let (mut end, noting) = holding_five(u64::MAX);
            let head = end.head();
            let _ending = end.share().end(how, Duration::ZERO);
            end.hold(Arc::clone(&noting) as _, Stamp::new(6, None));
            assert_eq!(*lock(&noting.seen), [(6, how)]);
            assert_eq!(end.head(), head);
        }
    }

    #[cfg(target_pointer_width = "64")]
    #[test]
    fn an_entry_takes_six_words() {
        assert_eq!(size_of::<Stamp>(), 32);
        assert_eq!(size_of::<Entry>(), 48);
    }

    #[tokio::test(start_paused = true)]
    async fn times_are_kept_to_the_nanosecond() {
        let began = Instant::now();
        tokio::time::advance(Duration::from_nanos(1_234_567_891)).await;
        let mut end = CallEnd::new();
        let deadline = end.head() + Duration::from_nanos(7);
        let (ran, left) = (end.head() - began, deadline - end.head());
        let stamp = Stamp::default().timed(ran, Some(left), true);
        let at = End { how: How::Panicked, waited: Duration::ZERO, head: Some(end.head()) };
        assert_eq!((stamp.began(&at), stamp.deadline(&at)), (Some(began), Some(deadline)));
        assert_eq!(stamp.word(), 0);
    }
}
