//! The route of a call: the part that settles its endpoints, those it has tried, and its payer.
//!
//! A call to one of several endpoints has ended when the layers above know what its result means,
//! and a streaming response when its body has ended. Endpoints know neither. Therefore they hand
//! the end of each call to the part of the call that [settles](settling) it: an attempt of a retry,
//! or the span of a stack without a retry. It does so in the same poll. A layer in between that
//! [replaces](settle_replaced) the result settles the call itself, and so does one that makes the
//! call in [another task](super::settle_here::SettleHere).

use std::{cell::Cell, num::NonZeroUsize, sync::Arc};

use tokio::time::Instant;

use super::{
    attempt::Attempt,
    ended_call::{EndedCall, Known},
    restore::Restore,
};
use crate::{CarryRejection, Outcome};

thread_local! {
    static PART: Cell<Part> = const { Cell::new(Part::NONE) };
    /// The end of a call, if `ENDED` is set.
    static END: Cell<Option<EndedCall>> = const { Cell::new(None) };
    /// The report of the calls beneath, if `REPORTED` is set.
    static REPORT: Cell<Report> = const { Cell::new(Report::NONE) };
    static TRIED: Cell<Tried> = const { Cell::new(Tried::NONE) };
}

/// The part of a call that runs.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    /// The address of the part that settles, with the two bits below. Zero if there is none.
    settler: usize,
    /// The address of the budget that the call has paid into.
    paid: usize,
}

/// The bit for a call that has ended. The addresses are multiples of four.
const ENDED: usize = 1;
/// The bit for a report of the calls beneath.
const REPORTED: usize = 2;

impl Part {
    const NONE: Self = Self { settler: 0, paid: 0 };
}

fn set_settler(settler: usize) {
    PART.set(Part { settler, ..PART.get() });
}

/// The endpoints that a call has tried. It forgets the oldest of more than four.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tried([u16; 4]);

impl Tried {
    pub(crate) const NONE: Self = Self([0; 4]);

    /// Returns the endpoints that the current call has tried.
    #[inline]
    pub(crate) fn current() -> Self {
        TRIED.get()
    }

    #[inline]
    pub(crate) fn is_empty(self) -> bool {
        self == Self::NONE
    }

    /// Returns `true` if the endpoint with this number was tried. Numbers are not zero.
    #[inline]
    pub(crate) fn contains(self, endpoint: u16) -> bool {
        self.0.contains(&endpoint)
    }

    /// Adds an endpoint.
    pub(crate) fn add(&mut self, endpoint: u16) {
        if !self.contains(endpoint) {
            self.0.rotate_right(1);
            self.0[0] = endpoint;
        }
    }

    /// Adds the endpoints of another call, or of another part of the same.
    pub(crate) fn add_all(&mut self, others: Self) {
        for endpoint in others.0.into_iter().rev().filter(|it| *it != 0) {
            self.add(endpoint);
        }
    }

    /// Makes the endpoints ambient, with those of the call around.
    pub(crate) fn enter(self) -> Restore<Self> {
        let mut all = TRIED.get();
        all.add_all(self);
        Restore::after_setting(&TRIED, all)
    }

    /// Tells the part of the call around that the call has failed at these endpoints.
    #[cold]
    pub(crate) fn report(self) {
        if !self.is_empty() {
            report(self, 0);
        }
    }
}

/// Tells the part of the call around that a retry has used the numbers of attempts up to this one.
///
/// Call it where the attempt around is ambient. A handler's retries do not use the numbers of the
/// remote caller.
#[cold]
pub(crate) fn report_number(number: u32) {
    if Attempt::current().is_some_and(|around| around.is_own()) {
        report(Tried::NONE, number);
    }
}

/// The report of the calls beneath a part of a call.
#[derive(Clone, Copy)]
struct Report {
    /// The endpoints at which they have failed.
    tried: Tried,
    /// The highest number of their attempts, or zero if no retry has reported one.
    last: u32,
}

impl Report {
    const NONE: Self = Self { tried: Tried::NONE, last: 0 };
}

/// Adds to the report to the part of the call around, if there is one.
fn report(tried: Tried, last: u32) {
    let settler = PART.get().settler;
    if settler == 0 {
        return;
    }
    let mut report = if settler & REPORTED == 0 { Report::NONE } else { REPORT.get() };
    report.tried.add_all(tried);
    report.last = report.last.max(last);
    REPORT.set(report);
    set_settler(settler | REPORTED);
}

/// Hides the route of the call around.
pub(super) fn clear() -> (Restore<Part>, Restore<Tried>) {
    (Restore::after_setting(&PART, Part::NONE), Restore::after_setting(&TRIED, Tried::NONE))
}

/// Notes that the current call has paid into this budget, if there is one.
///
/// Calls `pay` unless a layer around has paid into it.
#[inline]
pub(crate) fn paying<T>(budget: Option<&Arc<T>>, pay: impl FnOnce()) -> Paying {
    let part = PART.get();
    let paying = part.paying(budget);
    if paying.paid != part.paid {
        pay();
    }
    PART.set(paying);
    Paying { previous: part.paid }
}

/// Restores the payer of the call around.
#[must_use]
pub(crate) struct Paying {
    previous: usize,
}

impl Drop for Paying {
    #[inline]
    fn drop(&mut self) {
        // A call may have ended meanwhile, so the rest of the part stays.
        PART.set(Part { paid: self.previous, ..PART.get() });
    }
}

impl Part {
    #[inline]
    fn paying<T>(self, budget: Option<&Arc<T>>) -> Self {
        let paid = budget.map_or(self.paid, |budget| Arc::as_ptr(budget).addr());
        Self { paid, ..self }
    }
}

/// The part of a call that settles the ends of calls in the current poll.
///
/// It has the bit [`ENDED`] if another call had ended in the poll before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settler(NonZeroUsize);

impl Settler {
    /// Returns the part that settles, if there is one.
    #[inline]
    pub(crate) fn current() -> Option<Self> {
        NonZeroUsize::new(PART.get().settler & !REPORTED).map(Self)
    }

    /// Returns `true` if it is the part of the call that runs.
    fn is_current(self) -> bool {
        self.0.get() & !ENDED == PART.get().settler & !(ENDED | REPORTED)
    }

    /// Returns `true` if no call had ended when this value was read.
    ///
    /// A call that has ended since then is part of the call that read it.
    fn contains_ended(self) -> bool {
        self.0.get() & ENDED == 0
    }
}

/// Settles the calls that end meanwhile.
#[must_use]
pub(crate) struct Settling {
    previous: Part,
    /// The report to the previous part. Its other calls are not those of this part.
    report: Report,
    ended: bool,
}

/// Settles the calls that end until [`Settling::ended`], and notes who has paid as [`paying`] does.
///
/// `part` is pinned, so that its address identifies the call.
#[inline]
pub(crate) fn settling<P, T>(part: &P, budget: Option<&Arc<T>>) -> Settling {
    const { assert!(align_of::<P>() > REPORTED, "the bits of an address") };
    const { assert!(size_of::<P>() > 0, "an address of its own") };
    let previous = PART.get();
    PART.set(Part { settler: std::ptr::from_ref(part).addr(), ..previous.paying(budget) });
    Settling { previous, report: REPORT.get(), ended: false }
}

impl Settling {
    /// Returns what has ended, and tells the part of the call around the numbers of the attempts.
    ///
    /// Call it where the attempt around is ambient.
    #[inline]
    pub(crate) fn ended(mut self) -> Option<Beneath> {
        self.ended = true;
        self.end()
    }

    #[inline]
    fn end(&self) -> Option<Beneath> {
        let bits = PART.replace(self.previous).settler & (ENDED | REPORTED);
        (bits != 0).then(|| Beneath::take(bits, self.report))
    }
}

impl Drop for Settling {
    #[inline]
    fn drop(&mut self) {
        if !self.ended {
            // After a panic, or if a layer beneath keeps the result to itself.
            drop(self.end());
        }
    }
}

/// The calls that have ended beneath a part of a call.
#[derive(Default)]
pub(crate) struct Beneath {
    /// The last call to an endpoint, if it is still to be settled.
    pub(crate) call: Option<EndedCall>,
    /// The endpoints that were called.
    pub(crate) tried: Tried,
    /// The highest number of an attempt, or zero if no retry has reported one.
    pub(crate) number: u32,
}

impl Beneath {
    /// Takes what the bits say, and restores the report to the part around.
    #[inline(never)]
    fn take(bits: usize, around: Report) -> Self {
        let call = if bits & ENDED == 0 { None } else { take_end() };
        let mut beneath = Report::NONE;
        if bits & REPORTED != 0 {
            beneath = REPORT.replace(around);
            if beneath.last > 0 {
                report_number(beneath.last);
            }
        }
        let Report { mut tried, last } = beneath;
        if let Some(call) = &call {
            call.add_to(&mut tried);
        }
        Self { call, tried, number: last }
    }
}

#[inline]
fn take_end() -> Option<EndedCall> {
    // A thread that shuts down has dropped it.
    END.try_with(Cell::take).ok().flatten()
}

/// Returns `true` if the call that has ended is like this. It is still to be settled.
#[cold]
fn end_is(like_this: impl FnOnce(&EndedCall) -> bool) -> bool {
    let end = take_end();
    let is_so = end.as_ref().is_some_and(like_this);
    _ = END.try_with(|place| place.set(end));
    is_so
}

/// Returns `true` if the call that has just ended was made to an endpoint whose failure says
/// nothing of the calls to come, because other endpoints get them.
#[cold]
pub(crate) fn is_relieved() -> bool {
    PART.get().settler & ENDED != 0 && end_is(EndedCall::is_relieved)
}

/// Takes the call that has just ended from the part that would settle it.
fn take_ended() -> Option<EndedCall> {
    let settler = PART.get().settler;
    if settler & ENDED == 0 {
        return None;
    }
    set_settler(settler & !ENDED);
    take_end()
}

/// Settles the call that has just ended, because the layers above do not get its result.
///
/// `deadline` is that of the caller.
#[cold]
pub(crate) fn settle_replaced<T, E: CarryRejection>(
    outcome: Outcome,
    result: Result<&T, &E>,
    deadline: Option<Instant>,
) {
    if let Some(call) = take_ended() {
        call.settle(outcome, result, deadline, None);
    }
}

/// Settles the call that has just ended as its endpoint knows it, because the layers above get
/// another result.
pub(crate) fn settle_known() {
    drop(take_ended());
}

/// Settles the call that a layer has just ended to have time for another response.
#[cold]
pub(crate) fn settle_cut() {
    if let Some(call) = take_ended() {
        call.cut();
    }
}

/// Takes the call that has just ended, whose result is withheld from the layers above.
#[cfg(feature = "http")]
pub(crate) fn withhold() -> Withheld {
    let ended = take_ended().zip(Settler::current());
    Withheld(ended.map(|(call, settler)| (call, settler, Instant::now())))
}

/// A call to an endpoint whose result is withheld, the part that settles it, and the instant from
/// which it was withheld.
///
/// Dropping it before the layers above get the result ends the call without a result.
#[cfg(feature = "http")]
pub(crate) struct Withheld(Option<(EndedCall, Settler, Instant)>);

#[cfg(feature = "http")]
impl Withheld {
    /// Hands the call over, because the layers above get its result.
    pub(crate) fn hand_over(mut self) {
        if let Some((call, settler, _)) = self.0.take() {
            call.hand_over(settler);
        }
    }
}

#[cfg(feature = "http")]
impl Drop for Withheld {
    fn drop(&mut self) {
        if let Some((mut call, settler, since)) = self.0.take() {
            call.ran_on(since.elapsed());
            call.hand_over(settler);
        }
    }
}

impl EndedCall {
    /// Hands the end to the part of the call that settles it, if it still runs.
    ///
    /// Otherwise the call is settled as the endpoint knows it. So is an earlier call that no part
    /// has settled yet, because only the last one is the result of the part. A call that is dropped
    /// after another one has a result, as by `select!`, is not the result. A call that was part of
    /// this one has the same result, and so has one that is dropped together with it.
    pub(crate) fn hand_over(mut self, settler: Settler) {
        if !settler.is_current() {
            return;
        }
        let current = PART.get().settler;
        if current & ENDED != 0 {
            let is_dropped = self.measured.known() == Known::Dropped;
            if is_dropped && end_is(EndedCall::has_result) {
                return;
            }
            if is_dropped || settler.contains_ended() {
                self.inner = take_end().map(Box::new);
            }
        }
        let mut end = Some(self);
        if END.try_with(|place| end = place.replace(end.take())).is_ok() {
            set_settler(current | ENDED);
        }
        drop(end);
    }

    /// Adds its endpoints to those that were tried.
    fn add_to(&self, tried: &mut Tried) {
        if let Some(inner) = &self.inner {
            inner.add_to(tried);
        }
        tried.add(self.endpoint);
    }
}

#[cfg(test)]
mod tests;
