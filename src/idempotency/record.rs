//! The recording of results, and their replay.

use std::future::Future;

use super::{Completed, StoreError};
use crate::CarryRejection;

/// The outcome of a run, which decides the state of its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunOutcome {
    /// The operation was done. The result is recorded and replayed.
    Completed,
    /// Nothing began. The key is free.
    NotStarted,
    /// Something may have been done, and the outcome is not known.
    Unknown,
}

impl RunOutcome {
    /// Classifies an error of the service. Use it in your own [`Record`].
    ///
    /// The outcome is `NotStarted` if a layer of this crate beneath rejected the call before the
    /// service was called. Otherwise it is `Unknown`.
    pub fn of_error<E: CarryRejection>(error: &E) -> Self {
        match error.rejection() {
            // A timeout is not such a rejection, because the call that it ends has begun.
            Some(rejection) if rejection.nothing_began() => Self::NotStarted,
            _ => Self::Unknown,
        }
    }
}

/// Classifies results, records responses and replays them.
///
/// `Req` is the request that the service is called with, and `Res` and `E` are its result.
pub trait Record<Req, Res, E> {
    /// The recorded part of a response.
    type Payload;
    /// The response that the layer returns.
    type Response;

    /// Classifies a result of the service.
    fn classify(&self, result: Result<&Res, &E>) -> RunOutcome;

    /// Takes from a response the part to record.
    ///
    /// The future completes when it has read that part. The caller gets the response after the
    /// part is recorded, or if the store fails to record it until the lease ends.
    fn record(
        &self,
        response: Res,
    ) -> impl Future<Output = Recorded<Self::Payload, Self::Response>> + Send;

    /// Converts a response that is not recorded.
    fn pass(&self, response: Res) -> Self::Response;

    /// Rebuilds a response from its recorded part.
    ///
    /// # Errors
    ///
    /// Returns a [`StoreError`] if the payload is invalid, or was written by a newer version. The
    /// call is then rejected with
    /// [`StoreUnavailable`](crate::error::IdempotencyReason::StoreUnavailable).
    fn replay(&self, payload: Self::Payload) -> Result<Self::Response, StoreError>;

    /// Returns whether the caller of this request can read a replayed response.
    ///
    /// If it cannot, the call is rejected with
    /// [`NotReplayable`](crate::error::IdempotencyReason::NotReplayable). The default
    /// implementation returns `true`.
    fn can_read(&self, request: &Req, replayed: &Self::Response) -> bool {
        let _ = (request, replayed);
        true
    }

    /// Returns the maximum size of a payload, in bytes.
    ///
    /// A bounded store reserves as many bytes before the service is called.
    fn max_bytes(&self) -> usize;
}

/// A response and its recorded part.
#[derive(Debug)]
#[non_exhaustive]
pub struct Recorded<P, R> {
    /// The response that the caller gets.
    pub response: R,
    /// The part to record, or `None` if the response broke off.
    ///
    /// The content of a response that broke off is not known in full. The outcome of the run is
    /// then unknown.
    pub completed: Option<Completed<P>>,
}

impl<P, R> Recorded<P, R> {
    /// Creates a response with its recorded part.
    pub fn new(response: R, completed: Completed<P>) -> Self {
        Self { response, completed: Some(completed) }
    }

    /// Creates a response that broke off.
    pub fn broken(response: R) -> Self {
        Self { response, completed: None }
    }
}

/// A [`Record`] that keeps clones of responses, for a store in memory.
///
/// Every `Ok` is recorded. An `Err` is unknown, unless a layer of this crate rejected the call
/// before the service was called ([`RunOutcome::of_error`]).
///
/// The recorded size of a response is its `size_of`, without its data on the heap. Therefore,
/// limit the number of records of the store, not their bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecordClones;

impl<Req, Res, E> Record<Req, Res, E> for RecordClones
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
