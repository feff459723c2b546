//! Classification of results: one outcome per call, which every layer reads.

use std::{any::type_name, fmt, sync::Arc, time::Duration};

pub use self::choice::{ChooseClassifier, Inherited, Own, WithStackHints};
use crate::{CarryRejection, Rejection, sealed::Sealed};

/// What a finished call tells about the service that was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The service did its work, whatever it answered.
    Success,
    /// The service failed.
    Failure(Fault),
    /// The call says nothing about the service: it neither trips a breaker nor heals it, and is
    /// not retried.
    Ignored,
}

/// How a service failed, which decides what each layer does about it.
///
/// | fault | retried | trips a breaker |
/// |---|---|---|
/// | `Transient`, `TimedOut`, `Overloaded` | yes | yes |
/// | `InProgress` | yes | no, and heals none |
/// | `Permanent` | no | no, and heals none |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It may well work the next time: a broken connection, a 5xx.
    Transient,
    /// It took too long.
    TimedOut,
    /// It has too much to do.
    Overloaded {
        /// How long it asks to be left alone, if it says so.
        retry_after: Option<Duration>,
    },
    /// The same request is being run already, and its answer is not there yet: that says nothing of the
    /// service's health, and asking again later gets the answer.
    InProgress {
        /// How long it asks to be left alone, if it says so.
        retry_after: Option<Duration>,
    },
    /// It would fail again: the same request has the same answer.
    Permanent,
}

/// What an answer says about sending the request again, beside its [`Outcome`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RetryHint {
    /// Nothing.
    #[default]
    Unstated,
    /// Not before this much time has gone by.
    After(Duration),
    /// Do not retry, however the call ended.
    Stop,
    /// The request is proven not to have reached the service: it may be sent again even if it must
    /// not be repeated.
    Unsent,
    /// The service says that it has not processed the request, as HTTP/2's `REFUSED_STREAM` does. It is
    /// sent again once, at once, which counts neither as an attempt nor against the budget (gRPC
    /// proposal A6 calls that a transparent retry); after that it is as [`Unsent`](Self::Unsent).
    Unprocessed,
}

/// Judges an answer.
///
/// A classifier sees only what the service said. The rejections of this crate's layers are settled
/// by the layers themselves: an attempt's own timeout is a failure, and every other refusal says
/// nothing about the dependency. So no classifier can retry an open circuit by mistake.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot classify a `Result<{Res}, {E}>`",
    note = "a closure is made a classifier by `classify_fn(|result: Result<&Response, &_>| ..)`: \
            its parameter must be annotated with the response type of the service"
)]
pub trait Classify<Res, E> {
    /// The verdict on a result.
    fn classify(&self, result: Result<&Res, &E>) -> Outcome;

    /// What the result says about retrying. Nothing, unless this is overridden.
    fn hint(&self, result: Result<&Res, &E>) -> RetryHint {
        let _ = result;
        RetryHint::Unstated
    }
}

/// Knows only `Ok` and `Err`: a success, and a failure that may pass.
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
}

/// A closure as a classifier; made by [`classify_fn`].
#[derive(Clone, Copy)]
pub struct ClassifyFn<F> {
    f: F,
}

/// Makes a classifier of a closure.
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

/// The verdict on a result, rejections settled first.
pub(crate) fn judge<C, Res, E>(classifier: &C, result: Result<&Res, &E>) -> Outcome
where
    C: Classify<Res, E>,
    E: CarryRejection,
{
    match result.err().and_then(CarryRejection::rejection) {
        None => classifier.classify(result),
        Some(Rejection::TimedOut(_)) => Outcome::Failure(Fault::TimedOut),
        Some(_) => Outcome::Ignored,
    }
}

/// Whether it was the service, and no layer, that found a call to take too long.
pub(crate) fn service_is_late<Res, E: CarryRejection>(
    outcome: Outcome,
    result: Result<&Res, &E>,
) -> bool {
    let late = outcome == Outcome::Failure(Fault::TimedOut);
    late && result.err().and_then(CarryRejection::rejection).is_none()
}

/// The hint of a result. A rejection gives none: its classifier never saw it.
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

impl Outcome {
    /// A short name for spans and events.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure(Fault::Transient) => "transient",
            Self::Failure(Fault::TimedOut) => "timed_out",
            Self::Failure(Fault::Overloaded { .. }) => "overloaded",
            Self::Failure(Fault::InProgress { .. }) => "in_progress",
            Self::Failure(Fault::Permanent) => "permanent",
            Self::Ignored => "ignored",
        }
    }
}

/// Which classifier a layer uses: its own, or else the stack's, or else the default.
///
/// A layer starts out [`Inherited`] and becomes [`Own`] by its `classify` setter. The types are
/// what lets [`Stack`](crate::Stack) give one verdict to every layer that has none of its own.
pub(crate) mod choice {
    use super::{Arc, Classify, DefaultClassifier, Outcome, RetryHint, Sealed};

    /// The classifier of a layer that was given none: the stack's, or else [`DefaultClassifier`].
    #[derive(Clone, Copy, Debug, Default)]
    pub struct Inherited;

    /// The classifier that a layer was given.
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
    }

    impl Sealed for Inherited {}
    impl<C> Sealed for Own<C> {}

    /// Chooses between the classifier of a layer and that of its stack. This trait is sealed.
    pub trait ChooseClassifier<Stacked>: Sealed {
        /// The classifier that is used.
        type Chosen;

        /// Returns the layer's own classifier if there is one, and else the stack's.
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

    /// The layer's own classifier, with the stack's hints where it has none.
    ///
    /// A closure knows no hints, and must not make a retry deaf to what a server asks for.
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
    }
}
