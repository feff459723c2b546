//! When a call has ended: with its response, or with the end of what the response goes on to send.
//!
//! A slot of a bulkhead, the verdict of a breaker and a span belong to a call, and a streaming response
//! is not over when its head is there. A layer that ends calls [`AtEnd`] puts what it holds into the
//! response, which then owns it. For HTTP and gRPC all of it is done by `buttress::http`; a response of
//! another kind takes part by implementing [`Lasting`].

use std::{fmt, time::Duration};

use tokio::time::Instant;
use tracing::Span;

use crate::{
    Fault, Outcome,
    budget::Budget,
    bulkhead::Permit,
    call::patience::{PATIENCE, was_cut_short},
    circuit_breaker::Call,
    telemetry::{self, Covers},
};

/// When a call has ended. Sealed: [`AtHead`] and [`AtEnd`].
pub trait Completion<Res>: sealed::Sealed {
    /// What ends when the response has ended; `None` if it has, as it stands.
    fn end(response: &mut Res) -> Option<&mut CallEnd>;
}

/// A call has ended when its response is there. The default.
#[derive(Clone, Copy, Debug, Default)]
pub struct AtHead;

/// A call has ended when the body of its response has, however that ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct AtEnd;

/// A response that goes on after its head, and holds what ends with it.
#[diagnostic::on_unimplemented(
    message = "it cannot be told when a response of type `{Self}` has ended",
    note = "for HTTP, use `Stack::http()` or put a `ClientLayer` next to the service: the response is then an `http::Response<buttress::http::ResponseBody<B>>`"
)]
pub trait Lasting {
    /// What ends with the response; `None` if it has ended already.
    fn call_end(&mut self) -> Option<&mut CallEnd>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::AtHead {}
    impl Sealed for super::AtEnd {}
}

impl<Res> Completion<Res> for AtHead {
    #[inline]
    fn end(_: &mut Res) -> Option<&mut CallEnd> {
        None
    }
}

impl<Res: Lasting> Completion<Res> for AtEnd {
    #[inline]
    fn end(response: &mut Res) -> Option<&mut CallEnd> {
        response.call_end()
    }
}

/// What the layers of a call hold until its response has ended: slots, verdicts and spans.
///
/// The layers put them in from the inside out, and they end in that order. Dropped before the end, the
/// call was abandoned.
pub struct CallEnd {
    // A stack has four that hold something; only with a throttle, and in stacks in stacks, more is needed.
    held: [Option<Held>; 4],
    more: Vec<Held>,
}

/// What one layer holds.
pub(crate) enum Held {
    Slot(Permit),
    Call(Call),
    Span(Span, Covers),
    /// The budget of a retry, moved by how its attempt ends, unless that was cut short by its caller.
    Throttle {
        budget: Budget,
        began: Option<Instant>,
        deadline: Option<Instant>,
    },
}

impl CallEnd {
    /// Of a response that has just arrived.
    pub fn new() -> Self {
        Self { held: [const { None }; 4], more: Vec::new() }
    }

    pub(crate) fn hold(&mut self, held: Held) {
        match self.held.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(held),
            None => self.more.push(held),
        }
    }

    /// The response ran to its end, which says `outcome` of the service. `waited` is for how long, since
    /// its head was there, the caller had been waiting for more of it: how long it left what was there
    /// lying makes no call slow, and none late.
    pub fn finish(&mut self, outcome: Outcome, waited: Duration) {
        self.each(|held| match held {
            Held::Slot(mut permit) => permit.finish(|_| ()),
            Held::Call(mut call) => call.finish_at_end(outcome, waited),
            Held::Span(span, covers) => telemetry::record_end(&span, covers, outcome),
            Held::Throttle { budget, began, deadline } => {
                let late = outcome == Outcome::Failure(Fault::TimedOut);
                if !(late && waited < PATIENCE && was_cut_short(began, deadline)) {
                    budget.observe(outcome);
                }
            }
        });
    }

    /// The response ran into a limit of its own, and not into the deadline of its caller: what it says of the
    /// service does not depend on how much time that left.
    pub fn disregard_deadline(&mut self) {
        for held in self.held.iter_mut().flatten().chain(&mut self.more) {
            match held {
                Held::Call(call) => call.disregard_deadline(),
                Held::Throttle { deadline, .. } => *deadline = None,
                Held::Slot(_) | Held::Span(..) => {}
            }
        }
    }

    /// Nobody reads on, of a response whose head was the verdict and that kept nobody waiting.
    pub fn leave(&mut self) {
        self.each(|held| match held {
            Held::Call(mut call) => call.finish_at_end(Outcome::Success, Duration::ZERO),
            Held::Span(span, _) => telemetry::record_cancelled(&span),
            Held::Slot(_) | Held::Throttle { .. } => {}
        });
    }

    /// Nobody reads on. `waited` is for how long the caller had been waiting for the rest: what it did
    /// with what it had is nothing that the service could help.
    pub fn abandon(&mut self, waited: Duration) {
        self.each(|held| match held {
            Held::Call(mut call) => call.abandoned_since(Instant::now().checked_sub(waited)),
            Held::Span(span, _) => telemetry::record_cancelled(&span),
            Held::Slot(_) | Held::Throttle { .. } => {}
        });
    }

    /// Producing the rest of the response panicked.
    pub fn panicked(&mut self) {
        self.each(|held| {
            if let Held::Call(mut call) = held {
                call.panicked();
            }
        });
    }

    fn each(&mut self, mut end: impl FnMut(Held)) {
        for place in &mut self.held {
            if let Some(held) = place.take() {
                end(held);
            }
        }
        self.more.drain(..).for_each(end);
    }
}

impl Default for CallEnd {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for CallEnd {
    fn drop(&mut self) {
        self.abandon(Duration::ZERO);
    }
}

impl fmt::Debug for CallEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.held.iter().flatten().count() + self.more.len();
        f.debug_struct("CallEnd").field("held", &held).finish()
    }
}

/// What ends when this result has ended; `None` if that is now.
#[inline]
pub(crate) fn end_of<M, T, E>(result: &mut Result<T, E>) -> Option<&mut CallEnd>
where
    M: Completion<T>,
{
    result.as_mut().ok().and_then(M::end)
}
