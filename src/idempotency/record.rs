//! The recording of results, and their replay.

use super::Completed;
use crate::{
    CarryRejection,
    keep::{Keep, KeepClones, KeptPart},
};

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

/// Classifies results, and decides what becomes of their records.
///
/// `Req` is the request that the service is called with, and `Res` and `E` are its result. The
/// payload of [`Keep`] is the record of a response. The caller gets a response after it is
/// recorded, or if the store fails to record it until the lease ends.
///
/// If a payload is invalid, the call is rejected with
/// [`StoreUnavailable`](crate::error::IdempotencyReason::StoreUnavailable). If a response
/// [broke off](crate::keep::KeptPart::BrokenOff), the outcome of its run is unknown.
pub trait Record<Req, Res, E>: Keep<Res> {
    /// Classifies a result of the service.
    fn classify(&self, result: Result<&Res, &E>) -> RunOutcome;

    /// Converts a response that is not recorded.
    fn pass(&self, response: Res) -> Self::Response;

    /// Marks the first response of an operation that is done, even if it is not kept.
    ///
    /// A retry of the request does not run the operation again. The default implementation does
    /// nothing.
    fn mark_done(&self, response: &mut Self::Response) {
        let _ = response;
    }

    /// Marks a replayed response.
    ///
    /// The default implementation does nothing.
    fn mark_replayed(&self, response: &mut Self::Response) {
        let _ = response;
    }

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

/// Records clones, for a store in memory.
///
/// Every `Ok` is recorded. An `Err` is unknown, unless a layer of this crate rejected the call
/// before the service was called ([`RunOutcome::of_error`]).
///
/// The size of a response is that without its data on the heap. Therefore, limit the number of
/// records of the store, not their bytes.
impl<Req, Res, E> Record<Req, Res, E> for KeepClones
where
    Res: Clone + Send,
    E: CarryRejection,
{
    fn classify(&self, result: Result<&Res, &E>) -> RunOutcome {
        match result {
            Ok(_) => RunOutcome::Completed,
            Err(error) => RunOutcome::of_error(error),
        }
    }

    fn pass(&self, response: Res) -> Res {
        response
    }

    fn max_bytes(&self) -> usize {
        size_of::<Res>()
    }
}

/// Returns the result to record, or `None` if the response is not known in full.
pub(super) fn completed<P>(part: KeptPart<P>) -> Option<Completed<P>> {
    match part {
        KeptPart::Payload { payload, bytes } => Some(Completed::replayable(payload, bytes)),
        KeptPart::NotKept => Some(Completed::not_replayable()),
        KeptPart::BrokenOff => None,
    }
}
