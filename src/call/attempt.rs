//! The current attempt of a retried call, which the code that runs in it can read.

use std::cell::Cell;

use super::restore::Restore;
use crate::Outcome;

thread_local! {
    static CURRENT: Cell<Current> = const { Cell::new(Current::NONE) };
    /// The outcome before the current attempt, if that is a retry.
    static PREVIOUS: Cell<Outcome> = const { Cell::new(Outcome::Success) };
}

/// The ambient attempt. The outcome before it is apart, because it is large and most have none.
#[derive(Clone, Copy)]
pub(crate) struct Current {
    number: u32,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    None,
    First,
    Retry,
    Received,
}

impl Current {
    const NONE: Self = Self { number: 0, kind: Kind::None };
}

/// Restores the attempt that was ambient before.
#[must_use]
pub(crate) struct Entered {
    around: Current,
    /// The outcome before the attempt around, if it was replaced.
    previous: Option<Outcome>,
}

impl Drop for Entered {
    #[inline]
    fn drop(&mut self) {
        CURRENT.set(self.around);
        if let Some(previous) = self.previous {
            PREVIOUS.set(previous);
        }
    }
}

/// Makes the first attempt of a retry the ambient attempt.
#[inline]
pub(crate) fn enter_first(number: u32) -> Restore<Current> {
    Restore::after_setting(&CURRENT, Current { number, kind: Kind::First })
}

/// Makes `attempt` the ambient attempt, and `None` hides the ambient attempt.
#[inline]
pub(crate) fn enter_attempt(attempt: Option<Attempt>) -> Entered {
    let current = attempt.map_or(Current::NONE, |attempt| Current {
        number: attempt.number,
        kind: match attempt.previous {
            Some(_) => Kind::Retry,
            None if attempt.received => Kind::Received,
            None => Kind::First,
        },
    });
    let previous = attempt.and_then(|attempt| attempt.previous);
    let previous = previous.map(|previous| PREVIOUS.replace(previous));
    Entered { around: CURRENT.replace(current), previous }
}

/// The current attempt of a [retried](crate::retry) call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    number: u32,
    previous: Option<Outcome>,
    received: bool,
}

impl Attempt {
    /// Creates the first attempt of a retry.
    pub(crate) fn numbered(number: u32) -> Self {
        Self { number, previous: None, received: false }
    }

    /// Creates the attempt that a remote caller reported.
    #[cfg(feature = "http")]
    pub(crate) fn received(number: u32) -> Self {
        Self { received: true, ..Self::numbered(number) }
    }

    /// Returns the number of the first attempt of a retry, which is that of the attempt around it.
    #[inline]
    pub(crate) fn first_number() -> u32 {
        let Current { number, kind } = CURRENT.get();
        if matches!(kind, Kind::First | Kind::Retry) { number } else { 1 }
    }

    /// Returns `true` if a retry layer of this process makes the attempt.
    pub(crate) fn is_own(&self) -> bool {
        !self.received
    }

    /// Returns the attempt after one whose numbers end with `last`.
    pub(crate) fn next(last: u32, outcome: Outcome) -> Self {
        Self { previous: Some(outcome), ..Self::numbered(last.saturating_add(1)) }
    }

    /// Returns this attempt with the number `last`, the highest that it has used.
    pub(crate) fn resent(self, last: u32) -> Self {
        Self { number: last, ..self }
    }

    /// Returns the attempt that is being called or polled, or `None` outside an attempt.
    ///
    /// It is the attempt of the nearest retry layer. In a server without a retry layer in between,
    /// it is the attempt that the remote caller reported.
    pub fn current() -> Option<Self> {
        let Current { number, kind } = CURRENT.get();
        match kind {
            Kind::None => None,
            Kind::First => Some(Self::numbered(number)),
            Kind::Retry => Some(Self { previous: Some(PREVIOUS.get()), ..Self::numbered(number) }),
            Kind::Received => Some(Self { received: true, ..Self::numbered(number) }),
        }
    }

    /// Returns the number of the attempt, starting with 1.
    ///
    /// The attempts of one call have different numbers, even if a retry is around a stack that
    /// retries. The first attempt of the inner retry has the number of the attempt around it. The
    /// outer retry goes on after the highest number of the inner one. With two retries of each, the
    /// outer attempts are 1, 4 and 7, and the inner ones 1 to 9. Numbers may be left out. A request
    /// that is resent because the service has not processed it keeps its number.
    ///
    /// The numbers start again with 1 in a call that is made in another task or in
    /// [`Deadline::detached`], and in the handler of a server. The settings and events of a retry
    /// layer do not use these numbers. They count the attempts of that layer alone.
    ///
    /// [`Deadline::detached`]: crate::Deadline::detached
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Returns the outcome of the previous attempt.
    ///
    /// It is `None` for the first attempt, and for an attempt that a remote caller reported.
    pub fn previous(&self) -> Option<Outcome> {
        self.previous
    }
}
