//! Classification of results. A classifier gives each call an outcome, which decides how the
//! layers react.

use std::{any::type_name, fmt, sync::Arc, time::Duration};

pub use self::choice::{ChooseClassifier, Inherited, Own, WithStackHints};
pub use crate::error::result::{Fault, Outcome};
use crate::{CarryRejection, Rejection, sealed::Sealed};

/// A hint about retries of the request, in addition to the [`Outcome`] of the call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RetryHint {
    /// The result says nothing about retries. This is the default.
    #[default]
    Unstated,
    /// The request must not be sent again before this time has passed.
    After(Duration),
    /// The request must not be retried, whatever the outcome of the call.
    Stop,
    /// The request is proven not to have reached the service.
    ///
    /// It may be sent again even if it is not safe to repeat.
    ///
    /// After [`Outcome::Ignored`], the request was given back by the client, for example because
    /// its connection ended before any of it was written. It is then sent again once, without a
    /// pause. This counts neither as an attempt nor against the budget. After a failure, such as a
    /// connection that cannot be made, the retry is an ordinary one.
    Unsent,
    /// The service says that it has not processed the request, for example by HTTP/2's
    /// `REFUSED_STREAM`.
    ///
    /// The request is sent again once, without a pause, if [retry](crate::retry) has kept a copy
    /// of it. This counts neither as an attempt nor against the budget. The gRPC proposal A6 calls
    /// it a transparent retry. After that, the request is retried in the ordinary way.
    ///
    /// After a [`Fault::Permanent`], such as a 421, the request is also sent again once, but as an
    /// ordinary retry. It has a pause, and counts as an attempt and against the budget. The next
    /// `Fault::Permanent` is final.
    Unprocessed,
}

/// A classifier, which turns the result of a call into an [`Outcome`].
///
/// A classifier sees only results of the service. The layers classify the rejections of this crate
/// themselves. A timeout is a failure, and a [shared failure](crate::error::SharedFailure) has the
/// outcome of the call that was shared. Every other rejection is ignored, because it says nothing
/// about the dependency. Therefore a classifier cannot retry an open circuit by mistake. The errors
/// of tower's `LoadShed` and `Timeout` in a [`BoxError`](crate::BoxError) are rejections too.
///
/// [`classify_fn`] creates a classifier from a closure.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot classify a `Result<{Res}, {E}>`",
    note = "a closure is made a classifier by `classify_fn(|result: Result<&Response, &_>| ..)`: \
            its parameter must be annotated with the response type of the service"
)]
pub trait Classify<Res, E> {
    /// Returns the outcome of a result.
    fn classify(&self, result: Result<&Res, &E>) -> Outcome;

    /// Returns the hint that the result gives about retries.
    ///
    /// Default: `RetryHint::Unstated`.
    fn hint(&self, result: Result<&Res, &E>) -> RetryHint {
        let _ = result;
        RetryHint::Unstated
    }

    /// Returns the cause of a failure as one word, such as `503`, `connect` or `UNAVAILABLE`.
    ///
    /// Default: `None`. The [`Fault`] is the cause then, such as `transient`.
    ///
    /// It is the `error.type` of [spans](crate::telemetry). It must be one of few values, and never
    /// a text that the service sent. It is called only for a failure, and for an error that is
    /// ignored.
    fn error_type(&self, result: Result<&Res, &E>) -> Option<&'static str> {
        let _ = result;
        None
    }
}

/// The default classifier. `Ok` is a success, and `Err` is a [`Fault::Transient`].
#[derive(Clone, Copy, Debug, Default)]
pub struct DefaultClassifier;

impl<Res, E> Classify<Res, E> for DefaultClassifier {
    fn classify(&self, result: Result<&Res, &E>) -> Outcome {
        match result {
            Ok(_) => Outcome::Success,
            Err(_) => Outcome::Failure(Fault::Transient),
        }
    }
}

impl<C, Res, E> Classify<Res, E> for Arc<C>
where
    C: Classify<Res, E> + ?Sized,
{
    fn classify(&self, result: Result<&Res, &E>) -> Outcome {
        (**self).classify(result)
    }

    fn hint(&self, result: Result<&Res, &E>) -> RetryHint {
        (**self).hint(result)
    }

    fn error_type(&self, result: Result<&Res, &E>) -> Option<&'static str> {
        (**self).error_type(result)
    }
}

/// A classifier that calls a closure, created by [`classify_fn`].
#[derive(Clone, Copy)]
pub struct ClassifyFn<F> {
    f: F,
}

/// Creates a classifier from a closure.
///
/// It gives neither hints about retries nor causes of failures.
///
/// ```
/// use buttress::{Fault, Outcome, classify_fn};
///
/// let by_status = classify_fn(|result: Result<&u16, &std::io::Error>| match result {
///     Ok(status) if *status < 500 => Outcome::Success,
///     _ => Outcome::Failure(Fault::Transient),
/// });
/// # let _ = by_status;
/// ```
pub fn classify_fn<F, Res, E>(f: F) -> ClassifyFn<F>
where
    F: Fn(Result<&Res, &E>) -> Outcome,
{
    ClassifyFn { f }
}

impl<F, Res, E> Classify<Res, E> for ClassifyFn<F>
where
    F: Fn(Result<&Res, &E>) -> Outcome,
{
    fn classify(&self, result: Result<&Res, &E>) -> Outcome {
        (self.f)(result)
    }
}

impl<F> fmt::Debug for ClassifyFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClassifyFn({})", type_name::<F>())
    }
}

/// Returns the outcome of a result. Rejections do not reach the classifier.
pub(crate) fn judge<C, Res, E>(classifier: &C, result: Result<&Res, &E>) -> Outcome
where
    C: Classify<Res, E>,
    E: CarryRejection,
{
    match result.err().and_then(CarryRejection::rejection) {
        None => classifier.classify(result),
        Some(Rejection::TimedOut(_)) => Outcome::Failure(Fault::TimedOut),
        // The service failed, and another caller has its error.
        Some(Rejection::Shared(shared)) => shared.outcome(),
        Some(_) => Outcome::Ignored,
    }
}

/// Returns `true` if a limit of another crate ended the call.
pub(crate) fn was_ended<Res, E: CarryRejection>(result: Result<&Res, &E>) -> bool {
    matches!(result.err().and_then(CarryRejection::rejection), Some(Rejection::Elapsed(_)))
}

/// Returns `true` if the service itself reported a timeout, instead of a layer of this crate.
pub(crate) fn service_is_late<Res, E: CarryRejection>(
    outcome: Outcome,
    result: Result<&Res, &E>,
) -> bool {
    let late = outcome == Outcome::Failure(Fault::TimedOut);
    late && result.err().and_then(CarryRejection::rejection).is_none()
}

/// Returns the hint of a result. A rejection gives none, because no classifier sees it.
pub(crate) fn hint<C, Res, E>(classifier: &C, result: Result<&Res, &E>) -> RetryHint
where
    C: Classify<Res, E>,
    E: CarryRejection,
{
    match result.err().and_then(CarryRejection::rejection) {
        None => classifier.hint(result),
        Some(_) => RetryHint::Unstated,
    }
}

/// Returns `true` if a request was given back, because the service has provably not processed it.
///
/// This is nobody's failure while others have responses. The hint is read only for a result that is
/// ignored.
pub(crate) fn was_given_back<C, Res, E>(
    classifier: &C,
    outcome: Outcome,
    result: Result<&Res, &E>,
) -> bool
where
    C: Classify<Res, E>,
    E: CarryRejection,
{
    outcome == Outcome::Ignored
        && matches!(hint(classifier, result), RetryHint::Unsent | RetryHint::Unprocessed)
}

/// The choice of a layer's classifier, which is its own, the stack's or the default.
///
/// A layer starts with [`Inherited`], and its `classify` setter replaces it with [`Own`]. With
/// these types a [`Stack`](crate::Stack) can give its classifier to every layer without its own.
pub(crate) mod choice {
    use super::{Arc, Classify, DefaultClassifier, Outcome, RetryHint, Sealed};

    /// The classifier of a layer without its own: the stack's, or [`DefaultClassifier`].
    #[derive(Clone, Copy, Debug, Default)]
    pub struct Inherited;

    /// The classifier that was set on a layer.
    #[derive(Clone, Copy, Debug)]
    pub struct Own<C>(pub(crate) C);

    impl<Res, E> Classify<Res, E> for Inherited {
        fn classify(&self, result: Result<&Res, &E>) -> Outcome {
            DefaultClassifier.classify(result)
        }
    }

    impl<C, Res, E> Classify<Res, E> for Own<C>
    where
        C: Classify<Res, E>,
    {
        fn classify(&self, result: Result<&Res, &E>) -> Outcome {
            self.0.classify(result)
        }

        fn hint(&self, result: Result<&Res, &E>) -> RetryHint {
            self.0.hint(result)
        }

        fn error_type(&self, result: Result<&Res, &E>) -> Option<&'static str> {
            self.0.error_type(result)
        }
    }

    impl Sealed for Inherited {}
    impl<C> Sealed for Own<C> {}

    /// Chooses between the classifiers of a layer and of its stack. This trait is sealed.
    pub trait ChooseClassifier<Stacked>: Sealed {
        /// The chosen classifier.
        type Chosen;

        /// Returns the layer's own classifier if it has one, and otherwise the stack's.
        fn choose(layer: &Arc<Self>, stack: &Arc<Stacked>) -> Arc<Self::Chosen>;
    }

    impl<Stacked> ChooseClassifier<Stacked> for Inherited {
        type Chosen = Stacked;

        fn choose(_: &Arc<Self>, stack: &Arc<Stacked>) -> Arc<Stacked> {
            Arc::clone(stack)
        }
    }

    impl<C, Stacked> ChooseClassifier<Stacked> for Own<C> {
        type Chosen = WithStackHints<Self, Stacked>;

        fn choose(layer: &Arc<Self>, stack: &Arc<Stacked>) -> Arc<Self::Chosen> {
            Arc::new(WithStackHints { own: Arc::clone(layer), stacked: Arc::clone(stack) })
        }
    }

    /// The layer's own classifier, with the stack's hint and cause if it gives none.
    ///
    /// A closure gives no hints, but a retry must still follow the hints of the server.
    #[derive(Debug)]
    pub struct WithStackHints<C, Stacked> {
        own: Arc<C>,
        stacked: Arc<Stacked>,
    }

    impl<C, Stacked, Res, E> Classify<Res, E> for WithStackHints<C, Stacked>
    where
        C: Classify<Res, E>,
        Stacked: Classify<Res, E>,
    {
        fn classify(&self, result: Result<&Res, &E>) -> Outcome {
            self.own.classify(result)
        }

        fn hint(&self, result: Result<&Res, &E>) -> RetryHint {
            match self.own.hint(result) {
                RetryHint::Unstated => self.stacked.hint(result),
                hint => hint,
            }
        }

        fn error_type(&self, result: Result<&Res, &E>) -> Option<&'static str> {
            self.own.error_type(result).or_else(|| self.stacked.error_type(result))
        }
    }
}
