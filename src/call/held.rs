//! The values that a call holds until its end.

use std::{
    mem,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;
use tracing::Span;

use super::{
    account::{Account, End, Entry, How, Stamp},
    lock::lock,
};
use crate::Outcome;

/// The values that a call holds until its end.
pub(super) struct Held {
    // A stack has three accounts and two spans. A stack around a stack needs more.
    entries: [Entry; 3],
    more: Vec<Entry>,
    spans: [SpanEntry; 2],
    /// The instant at which the head arrived, read once for all accounts that ask.
    pub(super) head: Option<Instant>,
}

/// The end of a call with two owners, either of which can end the call.
#[derive(Clone)]
pub(crate) struct SharedEnd(Arc<Mutex<Shared>>);

#[expect(clippy::large_enum_variant, reason = "it is in an allocation of its own")]
enum Shared {
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "only HTTP shares an end"))]
    Open(Held),
    /// The call has ended. A layer that comes later is settled in the same way.
    Ended(End),
}

/// The values of a call that has just ended. Those that are not settled count as dropped.
pub(crate) struct Ending {
    held: Held,
    end: End,
}

/// A span that stays open until the response has ended.
struct HeldSpan {
    span: Span,
    record: RecordEnd,
    counted: Counted,
}

/// A place for a span.
///
/// It is separate from the entries, because a span in an entry would need an allocation. Like an
/// entry it is settled when it is dropped.
pub(super) struct SpanEntry(Option<HeldSpan>);

/// The numbers that count the end of a response.
pub(crate) trait CountEnd: Send + Sync {
    /// Counts the end of a call that began at this instant.
    fn ended(&self, began: Instant, how: How);
}

/// The numbers that count the call, if there are any, and the instant at which the call began.
pub(crate) type Counted = Option<(Arc<dyn CountEnd>, Instant)>;

/// Records the end of a response in its span.
pub(crate) type RecordEnd = fn(&Span, How);

impl SharedEnd {
    #[cfg(feature = "http")]
    pub(super) fn new(held: Held) -> Self {
        Self(Arc::new(Mutex::new(Shared::Open(held))))
    }

    pub(super) fn hold(&self, mut entry: Entry) {
        let end = match &mut *lock(&self.0) {
            Shared::Open(held) => return held.hold(entry),
            Shared::Ended(end) => *end,
        };
        // Not under the lock, because an account wakes callers.
        entry.settle(&end);
    }

    pub(super) fn hold_span(&self, mut entry: SpanEntry) {
        let end = match &mut *lock(&self.0) {
            Shared::Open(held) => return held.hold_span(entry),
            Shared::Ended(end) => *end,
        };
        entry.settle(end.how);
    }

    /// Reads or sets the instant at which the head arrived.
    pub(super) fn with_head<T>(&self, piece: impl FnOnce(&mut Option<Instant>) -> T) -> T {
        match &mut *lock(&self.0) {
            Shared::Open(Held { head, .. }) | Shared::Ended(End { head, .. }) => piece(head),
        }
    }

    /// Returns the number of values that the call holds.
    pub(super) fn len(&self) -> usize {
        match &*lock(&self.0) {
            Shared::Open(held) => held.len(),
            Shared::Ended(_) => 0,
        }
    }

    /// Returns the outcome and the cause of a call that has ended as a failure.
    #[cold]
    pub(super) fn failure(&self) -> Option<(Outcome, Option<&'static str>)> {
        match &*lock(&self.0) {
            Shared::Ended(End {
                how: How::Complete(outcome @ Outcome::Failure(_), error_type),
                ..
            }) => Some((*outcome, *error_type)),
            Shared::Ended(_) | Shared::Open(_) => None,
        }
    }

    /// Ignores the caller's deadline, as [`Held::ignore_deadline`] does.
    pub(crate) fn ignore_deadline(&self) {
        if let Shared::Open(held) = &mut *lock(&self.0) {
            held.ignore_deadline();
        }
    }

    /// Ends the call, or returns `None` if it has ended before. The values are still to be settled.
    pub(crate) fn end(&self, how: How, waited: Duration) -> Option<Ending> {
        let mut shared = lock(&self.0);
        let Shared::Open(held) = &mut *shared else { return None };
        let end = End { how, waited, head: held.head };
        let held = mem::replace(held, Held::EMPTY);
        *shared = Shared::Ended(end);
        Some(Ending { held, end })
    }
}

impl Ending {
    pub(crate) fn settle(mut self) {
        self.held.settle(self.end.how, self.end.waited);
    }
}

impl Held {
    pub(super) const EMPTY: Self = Self {
        entries: [const { Entry::EMPTY }; 3],
        more: Vec::new(),
        spans: [const { SpanEntry(None) }; 2],
        head: None,
    };

    #[inline]
    pub(super) fn hold(&mut self, entry: Entry) {
        match self.entries.iter_mut().find(|place| place.is_empty()) {
            Some(place) => *place = entry,
            None => self.more.push(entry),
        }
    }

    pub(super) fn hold_span(&mut self, mut entry: SpanEntry) {
        match self.spans.iter_mut().find(|place| place.0.is_none()) {
            Some(place) => *place = entry,
            None => {
                if let Some(held) = entry.0.take() {
                    self.hold(Entry::new(Arc::new(held), Stamp::default()));
                }
            }
        }
    }

    /// Returns the number of values that the call holds.
    pub(super) fn len(&self) -> usize {
        let entries = self.entries.iter().filter(|entry| !entry.is_empty()).count();
        entries + self.more.len() + self.spans.iter().filter(|span| span.0.is_some()).count()
    }

    /// Ignores the caller's deadline when the outcome is counted.
    pub(super) fn ignore_deadline(&mut self) {
        for entry in self.entries.iter_mut().chain(&mut self.more) {
            entry.stamp_mut().forget_deadline();
        }
    }

    pub(super) fn settle(&mut self, how: How, waited: Duration) {
        let end = End { how, waited, head: self.head };
        for entry in &mut self.entries {
            entry.settle(&end);
        }
        if !self.more.is_empty() {
            self.more.drain(..).for_each(|mut entry| entry.settle(&end));
        }
        for span in &mut self.spans {
            span.settle(how);
        }
    }
}

impl SpanEntry {
    pub(super) fn new(span: Span, record: RecordEnd, counted: Counted) -> Self {
        Self(Some(HeldSpan { span, record, counted }))
    }

    #[inline]
    fn settle(&mut self, how: How) {
        if let Some(held) = self.0.take() {
            held.settle(how);
        }
    }
}

impl Drop for SpanEntry {
    #[inline]
    fn drop(&mut self) {
        self.settle(How::DroppedWhileReading);
    }
}

impl HeldSpan {
    #[inline]
    fn settle(&self, how: How) {
        if let Some((count, began)) = &self.counted {
            count.ended(*began, how);
        }
        (self.record)(&self.span, how);
    }
}

impl Account for HeldSpan {
    fn settle(&self, _: Stamp, end: &End) {
        self.settle(end.how);
    }
}
