//! Errors that give a request back.

use buttress::{Classify, Error, Fault, Outcome, RetryHint};

type Failure = Error<&'static str>;

/// A classifier by which two of the errors give a request back.
#[derive(Clone, Copy)]
pub(crate) struct GivesBack;

impl<Res> Classify<Res, Failure> for GivesBack {
    fn classify(&self, result: Result<&Res, &Failure>) -> Outcome {
        match result {
            Ok(_) => Outcome::Success,
            Err(Error::Service("unsent" | "refused")) => Outcome::Ignored,
            Err(_) => Outcome::Failure(Fault::Transient),
        }
    }

    fn hint(&self, result: Result<&Res, &Failure>) -> RetryHint {
        match result {
            Err(Error::Service("unsent")) => RetryHint::Unsent,
            Err(Error::Service("refused")) => RetryHint::Unprocessed,
            _ => RetryHint::Unstated,
        }
    }
}
