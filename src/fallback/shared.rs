//! The state that a service shares with its clones and their calls.

use std::{any::type_name, fmt, sync::Arc};

use super::state::State;
use crate::{
    CarryRejection, Classify, Outcome, RetryHint,
    call::{
        completion::{Completion, end_of},
        deadline,
        degraded::Reason,
        route,
    },
    outcome::{hint, judge},
};

/// The source of the responses, the classifier, and the state of the layer.
pub(super) struct Shared<R, C> {
    pub(super) source: Arc<R>,
    pub(super) classifier: Arc<C>,
    pub(super) state: Arc<State>,
}

impl<R, C> Shared<R, C> {
    /// Returns the reason for a fallback, or `None` if the result stands.
    ///
    /// Runs the classifier, and the function of the user that chooses the failures.
    #[inline]
    pub(super) fn reason<M, T, E>(&self, result: &mut Result<T, E>) -> Option<Reason>
    where
        M: Completion<T>,
        C: Classify<T, E>,
        E: CarryRejection,
    {
        let mut outcome = judge(&*self.classifier, result.as_ref());
        if outcome == Outcome::Success {
            // A body that was read ahead may have failed.
            outcome = end_of::<M, _, _>(result)?.failure()?.0;
        }
        self.reason_of(outcome, result)
    }

    #[cold]
    fn reason_of<T, E: CarryRejection>(
        &self,
        outcome: Outcome,
        result: &Result<T, E>,
    ) -> Option<Reason> {
        let rejection = result.as_ref().err().and_then(CarryRejection::rejection);
        let reason = Reason::of(outcome, rejection)?;
        if !self.state.config.falls_back(&reason) {
            return None;
        }
        route::settle_replaced(outcome, result.as_ref(), deadline::deadline());
        Some(reason)
    }

    /// Returns `true` if the service has provably not processed the request.
    ///
    /// An earlier attempt may have, which only a source knows that watches the retries.
    pub(super) fn nothing_began<T, E>(&self, reason: &Reason, result: &Result<T, E>) -> bool
    where
        C: Classify<T, E>,
        E: CarryRejection,
    {
        match reason {
            Reason::Off => true,
            Reason::Rejected(rejection) => rejection.nothing_began(),
            Reason::Failed(_) => {
                let hint = hint(&*self.classifier, result.as_ref());
                matches!(hint, RetryHint::Unsent | RetryHint::Unprocessed)
            }
        }
    }
}

impl<R, C> fmt::Debug for Shared<R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("source", &format_args!("{}", type_name::<R>()))
            .field("classifier", &format_args!("{}", type_name::<C>()))
            .field("state", &self.state)
            .finish()
    }
}
