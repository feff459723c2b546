//! The [idempotency layer](crate::idempotency) on HTTP and gRPC.
//!
//! The module has three parts:
//!
//! - [`HeaderKey`] finds the key of a request.
//! - [`ReadHttp`] reads the request and computes its fingerprint, which tells whether two requests
//!   with the same key are the same request.
//! - [`RecordHttp`] records the response and replays it.
//!
//! The bodies of requests and responses that passed the layer are
//! [`BufferedBody`](crate::http::BufferedBody)s. An
//! [`HttpServerLayer`](crate::http::HttpServerLayer) around the layer turns its rejections into
//! responses, as [its table](crate::http::server) lists them. The
//! [idempotency module](crate::idempotency) has an example.
//!
//! # Writing a handler
//!
//! A guarded request has the [`Run`](crate::idempotency::Run) among its extensions. A response
//! with the extension [`NotStarted`] frees the key. So does one that
//! [`not_started`](RecordHttpBuilder::not_started) selects. Any other response is recorded and
//! replayed from then on, even if it reports a failure.

mod digest;
mod envelope;
mod headers;
mod key;
mod layer;
mod media_type;
mod memory;
mod record_builder;
mod request;
mod response;

pub use self::{
    headers::IDEMPOTENCY_REPLAYED,
    key::{HeaderKey, HeaderKeyBuilder, IDEMPOTENCY_KEY},
    record_builder::RecordHttpBuilder,
    request::{ReadHttp, ReadHttpBuilder},
    response::{NotStarted, RecordHttp},
};

#[cfg(test)]
mod tests;
