//! What becomes of a result: whether it is recorded, and how it is given again.

use std::future::Future;

use super::{Completed, StoreError};
use crate::CarryRejection;

/// What the record of an operation becomes when its run has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunOutcome {
    /// It was done: the result is recorded, and given again.
    Completed,
    /// Nothing began: the key is free.
    NotStarted,
    /// Something may have been done, and what is not known.
    Unknown,
}

impl RunOutcome {
    /// What becomes of an operation whose service failed: released, if a layer of this crate beneath the guard
    /// refused it before the service was called, and otherwise unknown. For a [`Record`] of one's own.
    pub fn of_error<E: CarryRejection>(error: &E) -> Self {
        match error.rejection() {
            // A timeout beneath is none of these: what it ends has begun.
            Some(rejection) if rejection.nothing_began() => Self::NotStarted,
            _ => Self::Unknown,
        }
    }
}

/// Judges results, keeps them and gives them again.
pub trait Record<Res, E> {
    /// What is kept of a response.
    type Payload;
    /// What the guard answers with.
    type Response;

    /// What becomes of a result of the service.
    fn classify(&self, result: Result<&Res, &E>) -> RunOutcome;

    /// Takes from a response what is kept of it. Runs until that is done, and before anybody sees the
    /// response.
    fn record(
        &self,
        response: Res,
    ) -> impl Future<Output = Recorded<Self::Payload, Self::Response>> + Send;

    /// A response that is not recorded.
    fn pass(&self, response: Res) -> Self::Response;

    /// Makes a response of what was kept of it.
    ///
    /// # Errors
    ///
    /// If that is not what this kind of record keeps, or of a newer version.
    fn replay(&self, payload: Self::Payload) -> Result<Self::Response, StoreError>;

    /// How many bytes the payload may take at most; that much is set aside before the service is called.
    fn max_bytes(&self) -> usize;
}

/// A response, and what is kept of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Recorded<P, R> {
    /// What the caller is answered.
    pub response: R,
    /// What is recorded; `None` if the response broke off, so that nobody knows what it would have been.
    pub completed: Option<Completed<P>>,
}

impl<P, R> Recorded<P, R> {
    /// A response, and what is recorded of it.
    pub fn new(response: R, completed: Completed<P>) -> Self {
        Self { response, completed: Some(completed) }
    }

    /// A response that broke off.
    pub fn broken(response: R) -> Self {
        Self { response, completed: None }
    }
}

/// Keeps clones of responses, which a store in memory can.
///
/// Every `Ok` is recorded; an `Err` is unknown, unless it is the refusal of a layer of this crate.
///
/// A store that is bounded by bytes counts `size_of` the response, and not what it holds on the heap: bound
/// such a store by records.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecordClones;

impl<Res, E> Record<Res, E> for RecordClones
where
    Res: Clone + Send,
    E: CarryRejection,
{
    type Payload = Res;
    type Response = Res;

    fn classify(&self, result: Result<&Res, &E>) -> RunOutcome {
        match result {
            Ok(_) => RunOutcome::Completed,
            Err(error) => RunOutcome::of_error(error),
        }
    }

    async fn record(&self, response: Res) -> Recorded<Res, Res> {
        Recorded::new(response.clone(), Completed::replayable(response, size_of::<Res>()))
    }

    fn pass(&self, response: Res) -> Res {
        response
    }

    fn replay(&self, payload: Res) -> Result<Res, StoreError> {
        Ok(payload)
    }

    fn max_bytes(&self) -> usize {
        size_of::<Res>()
    }
}
