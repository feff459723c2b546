//! Classifiers for HTTP and gRPC responses.

use std::{fmt, sync::Arc};

use http::{HeaderMap, Response, StatusCode};
use http_body::Body;

use super::{
    Cause, failure,
    grpc::outcome_of_code,
    idempotency::IDEMPOTENCY_REPLAYED,
    status::{is_unprocessed, outcome_of_status, text_of_status},
    wire::{self, GrpcCode, Pushback},
};
use crate::{Classify, Fault, Outcome, RetryHint};

/// A classifier that reads the HTTP status.
///
/// | result | outcome |
/// |---|---|
/// | 408, 504 | timed out |
/// | 429, and 503 with a `Retry-After` | overloaded |
/// | 409 with a `Retry-After` | in progress: a server with an idempotency layer is running the same request |
/// | 501, 505 to 508, 510, 511 | permanent failure: a retry gets the same response |
/// | 421, 425 | permanent failure, but the request is sent again once |
/// | any other 5xx | transient failure |
/// | any of these with `idempotency-replayed: true` | permanent failure: it is a recorded response |
/// | everything else, such as a 404 | success: the service did its work |
/// | an error | by its causes, see below |
///
/// A 421 or a 425 says that the server has not processed the request. It is therefore sent again
/// once, whatever its method, unless the response has a `Retry-After`
/// ([`RetryHint::Unprocessed`]). A body that was read and not kept cannot be sent again. A second
/// response of this kind is final. A status that [`status`](Self::status) or
/// [`adjust_fn`](Self::adjust_fn) changes follows only its new outcome.
///
/// An error is classified by its causes. [The
/// guide](crate::guide::http#whose-fault-an-error-is) has each kind of error of hyper, h2, reqwest
/// and tonic:
///
/// - A connection that cannot be made or that breaks is a transient failure, and a timeout is timed
///   out.
/// - A request that was given back unwritten, or that the server has not processed
///   (`REFUSED_STREAM`, `GOAWAY`), is ignored, because it is nobody's failure. It is
///   [sent again at once](crate::retry#unprocessed-requests). A breaker counts it [in
///   silence](crate::circuit_breaker#requests-that-are-given-back). A `GOAWAY` is a proof except in
///   [a race within hyper](crate::guide::http#whose-fault-an-error-is).
/// - A mistake of the caller, such as a relative URI or a failed body, is ignored and not retried.
/// - Any other error is a transient failure.
///
/// Without the feature `hyper`, only timeouts, refused connections, invalid `http` types and errors
/// of a [`ReplayBody`](super::ReplayBody) are recognised.
///
/// Use [`status`](Self::status) to change the outcome of one status, and
/// [`adjust_fn`](Self::adjust_fn) to change the outcome of any response.
#[derive(Clone, Default)]
pub struct HttpClassifier {
    adjust: Option<Arc<Adjust<StatusCode>>>,
}

/// A classifier that reads the gRPC status in the headers or in the trailers.
///
/// | status | outcome |
/// |---|---|
/// | `OK` | success |
/// | `UNAVAILABLE`, `UNKNOWN`, `INTERNAL`, `DATA_LOSS`, no status at the end | transient failure |
/// | `DEADLINE_EXCEEDED`, and the `CANCELLED` of tonic's own timer | timed out |
/// | `RESOURCE_EXHAUSTED` | overloaded |
/// | `ABORTED` with a `grpc-retry-pushback-ms` of 0 or more | in progress |
/// | any failure with `idempotency-replayed: true` beside the status | permanent failure |
/// | everything else | permanent failure: the caller's own mistake |
///
/// A response whose HTTP status is not 200 comes from a proxy. It is classified by the table of
/// [`HttpClassifier`].
#[derive(Clone, Default)]
pub struct GrpcClassifier {
    adjust: Option<Arc<Adjust<GrpcCode>>>,
}

/// A classifier that reads the gRPC status of gRPC responses and the HTTP status of all others.
///
/// [`Stack::http`](crate::Stack::http) uses it.
#[derive(Clone, Debug, Default)]
pub struct AutoClassifier {
    http: HttpClassifier,
    grpc: GrpcClassifier,
}

/// A function that overrides the outcome of a status, or returns `None` to keep it.
type Adjust<T> = dyn Fn(T, &HeaderMap) -> Option<Outcome> + Send + Sync;

/// Returns a function that tries `newer` first, and then `older`.
fn adjusted<T: Copy + 'static>(
    older: Option<Arc<Adjust<T>>>,
    newer: impl Fn(T, &HeaderMap) -> Option<Outcome> + Send + Sync + 'static,
) -> Option<Arc<Adjust<T>>> {
    Some(Arc::new(move |status, headers: &HeaderMap| {
        newer(status, headers).or_else(|| older.as_ref().and_then(|older| older(status, headers)))
    }))
}

impl HttpClassifier {
    /// Creates a classifier that follows the table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the outcome of one status.
    ///
    /// Default: the outcome in the table. For the same status, the last call wins.
    pub fn status(self, status: StatusCode, outcome: Outcome) -> Self {
        self.adjust_fn(move |answered, _| (answered == status).then_some(outcome))
    }

    /// Adds a function that can change the outcome of a response.
    ///
    /// Default: none.
    ///
    /// The function receives the status and the headers. It returns `None` to keep the outcome. If
    /// several functions return an outcome, the function that was added last wins. A call of
    /// [`status`](Self::status) adds such a function too.
    pub fn adjust_fn<F>(self, f: F) -> Self
    where
        F: Fn(StatusCode, &HeaderMap) -> Option<Outcome> + Send + Sync + 'static,
    {
        Self { adjust: adjusted(self.adjust, f) }
    }

    /// Returns the outcome that the user has set for a response.
    fn adjusted(&self, status: StatusCode, headers: &HeaderMap) -> Option<Outcome> {
        self.adjust.as_ref().and_then(|adjust| adjust(status, headers))
    }

    fn judge(&self, status: StatusCode, headers: &HeaderMap) -> Outcome {
        if let Some(outcome) = self.adjusted(status, headers) {
            return outcome;
        }
        unless_replayed(outcome_of_status(status, headers), headers)
    }

    fn hint(&self, status: StatusCode, headers: &HeaderMap) -> RetryHint {
        if wire::should_not_retry(headers) {
            return RetryHint::Stop;
        }
        match wire::retry_after(headers).value {
            // Zero asks for no pause, as in `judge`.
            Some(asked) if !asked.is_zero() => RetryHint::After(asked),
            _ if is_replayed(headers) => RetryHint::Unstated,
            _ if is_unprocessed(status) && self.adjusted(status, headers).is_none() => {
                RetryHint::Unprocessed
            }
            _ => RetryHint::Unstated,
        }
    }
}

/// Returns whether a server has recorded this response earlier, for the same idempotency key.
fn is_replayed(headers: &HeaderMap) -> bool {
    headers.get(IDEMPOTENCY_REPLAYED).is_some_and(|value| value == "true")
}

/// Returns the outcome, or a permanent failure if a server would only replay the failure again.
fn unless_replayed(outcome: Outcome, headers: &HeaderMap) -> Outcome {
    match outcome {
        Outcome::Failure(_) if is_replayed(headers) => Outcome::Failure(Fault::Permanent),
        outcome => outcome,
    }
}

impl GrpcClassifier {
    /// Creates a classifier that follows the table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the outcome of one status.
    ///
    /// Default: the outcome in the table. For the same status, the last call wins.
    pub fn code(self, code: GrpcCode, outcome: Outcome) -> Self {
        self.adjust_fn(move |answered, _| (answered == code).then_some(outcome))
    }

    /// Adds a function that can change the outcome of a response.
    ///
    /// Default: none.
    ///
    /// The function receives the status, and the headers or trailers that contain it. It returns
    /// `None` to keep the outcome. If several functions return an outcome, the function that was
    /// added last wins. A call of [`code`](Self::code) adds such a function too.
    pub fn adjust_fn<F>(self, f: F) -> Self
    where
        F: Fn(GrpcCode, &HeaderMap) -> Option<Outcome> + Send + Sync + 'static,
    {
        Self { adjust: adjusted(self.adjust, f) }
    }

    /// Classifies trailers or headers, or returns `None` if they contain no gRPC status.
    fn judge(&self, fields: &HeaderMap) -> Option<Outcome> {
        let code = wire::grpc_status(fields)?;
        if let Some(outcome) = self.adjust.as_ref().and_then(|adjust| adjust(code, fields)) {
            return Some(outcome);
        }
        Some(unless_replayed(outcome_of_code(code, fields), fields))
    }
}

fn grpc_hint(fields: &HeaderMap) -> RetryHint {
    match wire::pushback(fields) {
        Pushback::Absent => RetryHint::Unstated,
        Pushback::After(asked) => RetryHint::After(asked),
        Pushback::Stop | Pushback::Malformed => RetryHint::Stop,
    }
}

/// Returns the name of the code in headers or trailers, unless it is `OK`.
///
/// A gRPC client takes a call without a status for `UNKNOWN`.
fn grpc_error_type(fields: Option<&HeaderMap>) -> Option<&'static str> {
    let code = match fields {
        Some(fields) if wire::is_tonic_timeout(fields) => GrpcCode::DeadlineExceeded,
        fields => fields.and_then(wire::grpc_status).unwrap_or(GrpcCode::Unknown),
    };
    (code != GrpcCode::Ok).then(|| code.as_str())
}

/// The outcome of a gRPC call that ended without a status.
const NO_STATUS: Outcome = Outcome::Failure(Fault::Transient);

impl AutoClassifier {
    /// Creates a classifier that follows the tables of [`HttpClassifier`] and [`GrpcClassifier`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the classifier of HTTP responses.
    ///
    /// Default: `HttpClassifier::new()`.
    pub fn http(mut self, http: HttpClassifier) -> Self {
        self.http = http;
        self
    }

    /// Sets the classifier of gRPC responses.
    ///
    /// Default: `GrpcClassifier::new()`.
    pub fn grpc(mut self, grpc: GrpcClassifier) -> Self {
        self.grpc = grpc;
        self
    }

    /// Classifies an HTTP response.
    pub(super) fn http_head(&self, status: StatusCode, headers: &HeaderMap) -> Outcome {
        self.http.judge(status, headers)
    }

    /// Classifies the end of a gRPC response whose head had no status.
    ///
    /// Also returns the cause, in case of a failure.
    pub(super) fn grpc_end(&self, trailers: Option<&HeaderMap>) -> (Outcome, Option<&'static str>) {
        let outcome = trailers.and_then(|trailers| self.grpc.judge(trailers)).unwrap_or(NO_STATUS);
        match outcome {
            Outcome::Success => (outcome, None),
            _ => (outcome, grpc_error_type(trailers)),
        }
    }
}

impl From<HttpClassifier> for AutoClassifier {
    fn from(http: HttpClassifier) -> Self {
        Self::new().http(http)
    }
}

impl From<GrpcClassifier> for AutoClassifier {
    fn from(grpc: GrpcClassifier) -> Self {
        Self::new().grpc(grpc)
    }
}

impl<B, E: Cause> Classify<Response<B>, E> for HttpClassifier {
    fn classify(&self, result: Result<&Response<B>, &E>) -> Outcome {
        match result {
            Ok(response) => self.judge(response.status(), response.headers()),
            Err(error) => failure::judge(error).outcome,
        }
    }

    fn hint(&self, result: Result<&Response<B>, &E>) -> RetryHint {
        match result {
            Ok(response) => self.hint(response.status(), response.headers()),
            Err(error) => failure::judge(error).hint,
        }
    }

    fn error_type(&self, result: Result<&Response<B>, &E>) -> Option<&'static str> {
        match result {
            Ok(response) => text_of_status(response.status()),
            Err(error) => failure::error_type(error),
        }
    }
}

impl<B: Body, E: Cause> Classify<Response<B>, E> for GrpcClassifier {
    fn classify(&self, result: Result<&Response<B>, &E>) -> Outcome {
        match result {
            Ok(response) if response.status() != StatusCode::OK => {
                HttpClassifier::new().judge(response.status(), response.headers())
            }
            Ok(response) => match self.judge(response.headers()) {
                Some(outcome) => outcome,
                None if response.body().is_end_stream() => NO_STATUS,
                // The trailers decide the outcome later.
                None => Outcome::Success,
            },
            Err(error) => failure::judge(error).outcome,
        }
    }

    fn hint(&self, result: Result<&Response<B>, &E>) -> RetryHint {
        match result {
            Ok(response) if response.status() != StatusCode::OK => {
                HttpClassifier::new().hint(response.status(), response.headers())
            }
            Ok(response) => grpc_hint(response.headers()),
            Err(error) => failure::judge(error).hint,
        }
    }

    fn error_type(&self, result: Result<&Response<B>, &E>) -> Option<&'static str> {
        match result {
            Ok(response) if response.status() != StatusCode::OK => {
                text_of_status(response.status())
            }
            Ok(response) => grpc_error_type(Some(response.headers())),
            Err(error) => failure::error_type(error),
        }
    }
}

impl<B: Body, E: Cause> Classify<Response<B>, E> for AutoClassifier {
    fn classify(&self, result: Result<&Response<B>, &E>) -> Outcome {
        match result {
            Ok(response) if wire::is_grpc(response.headers()) => self.grpc.classify(result),
            _ => self.http.classify(result),
        }
    }

    fn hint(&self, result: Result<&Response<B>, &E>) -> RetryHint {
        match result {
            Ok(response) if wire::is_grpc(response.headers()) => {
                Classify::<Response<B>, E>::hint(&self.grpc, result)
            }
            _ => Classify::<Response<B>, E>::hint(&self.http, result),
        }
    }

    fn error_type(&self, result: Result<&Response<B>, &E>) -> Option<&'static str> {
        match result {
            Ok(response) if wire::is_grpc(response.headers()) => self.grpc.error_type(result),
            _ => self.http.error_type(result),
        }
    }
}

impl fmt::Debug for HttpClassifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClassifier").field("adjusted", &self.adjust.is_some()).finish()
    }
}

impl fmt::Debug for GrpcClassifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcClassifier").field("adjusted", &self.adjust.is_some()).finish()
    }
}
