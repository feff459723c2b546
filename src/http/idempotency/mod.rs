//! The [idempotency guard](crate::idempotency) on HTTP and gRPC: where the key is, what makes two requests the same
//! one, and what is kept of a response.
//!
//! [`HeaderKey`] finds the key, [`ReadHttp`] reads the request, [`RecordHttp`] keeps the response
//! and gives it again. Bodies on the other side of the guard are [`GuardedBody`]s. What the guard
//! refuses is answered by a [`HttpServerLayer`](crate::http::HttpServerLayer) around it: see [its
//! table](crate::http::server).
//!
//! # What a handler has to know
//!
//! Its request has the [`Run`](crate::idempotency::Run) among its extensions, if it is guarded. A response that says
//! [`NotStarted`] frees the key; any other, of a failure too, is the answer for good.

mod body;
mod envelope;
mod key;
mod layer;
mod read;
mod request;
mod response;

pub use self::{
    body::GuardedBody,
    key::{HeaderKey, HeaderKeyBuilder, IDEMPOTENCY_KEY},
    request::{ReadHttp, ReadHttpBuilder},
    response::{IDEMPOTENCY_REPLAYED, NotStarted, RecordHttp, RecordHttpBuilder},
};

#[cfg(test)]
mod tests;
