//! The headers that carry the time left, the attempt and retry advice from one hop to the next.
//!
//! The functions here read and write a [`HeaderMap`](http::HeaderMap) and have no other effect. The
//! layers of [`http`](crate::http) use them. You need them only to write such a layer yourself.
//!
//! This crate invents no header. HTTP, gRPC, Connect or Envoy define each of them, except
//! `x-should-retry`, which the client libraries of several web APIs read.
//!
//! ```
//! use buttress::http::wire;
//! use http::{HeaderMap, HeaderValue};
//! use std::time::Duration;
//!
//! let mut headers = HeaderMap::new();
//! headers.append(wire::GRPC_TIMEOUT, HeaderValue::from_static("200m"));
//! headers.append(wire::GRPC_TIMEOUT, HeaderValue::from_static("soon"));
//!
//! let read = wire::grpc_timeout(&headers);
//! assert_eq!(read.value, Some(Duration::from_millis(200)));
//! assert_eq!(read.malformed, 1);
//! ```
//!
//! # Requests: the time left
//!
//! | header | on | value | read | written |
//! |---|---|---|---|---|
//! | `grpc-timeout` | gRPC | one to eight digits and a unit: `H`, `M`, `S`, `m`, `u` or `n` | yes | yes |
//! | `x-envoy-expected-rq-timeout-ms` | HTTP | milliseconds | yes | yes |
//! | `connect-timeout-ms` | Connect | milliseconds, at most ten digits | yes | no |
//!
//! The [content type](is_grpc) tells whether a call is gRPC.
//!
//! The header is written for each attempt, beneath the attempt timeout. It states the time that
//! this attempt has left, not the time of the call at its start. The time is rounded down, because
//! the server must not believe that the caller waits longer than it does. A call with less time
//! than the smallest unit is rejected instead of sent, because a timeout of zero means no timeout
//! to Envoy.
//!
//! A header that is read can only shorten a deadline. If there are several lines, the shortest time
//! counts, and an additional line never extends the time. A server subtracts 5 % of the time that
//! it reads, at least 1 ms and at most 100 ms, because its response must arrive in time.
//!
//! `x-envoy-upstream-rq-timeout-ms`, `x-envoy-max-retries` and `x-envoy-retry-on` are commands to a
//! router. They do not describe the caller, and are never read.
//!
//! # Requests: the attempt
//!
//! | header | on | first attempt | after that |
//! |---|---|---|---|
//! | `grpc-previous-rpc-attempts` | gRPC | absent | 1, 2, .. |
//! | `x-envoy-attempt-count` | HTTP | absent | 2, 3, .. |
//!
//! They have the [number of the attempt](crate::context::Attempt::number), which is different for
//! each attempt of a call, even if there are several retries around each other. A request that is
//! resent because the server has not processed it keeps its number.
//!
//! They are for telemetry and for [`Attempt::current`](crate::context::Attempt::current). No
//! decision depends on them, because a caller could write any value there.
//!
//! # Responses: do not retry
//!
//! | header | on | value |
//! |---|---|---|
//! | `grpc-retry-pushback-ms` | gRPC, with the status | `-1` |
//! | `x-should-retry` | HTTP | `false` |
//! | `x-envoy-ratelimited` | HTTP, only with `for_envoy` | `true` |
//!
//! A server that has exhausted its retries says so. Otherwise its callers would multiply the
//! retries. So does a server that has recorded the failure, and would only replay it. Envoy does
//! not know `x-should-retry`. Only `x-envoy-ratelimited` keeps it from retrying.
//!
//! # Responses: when to retry
//!
//! | header | value | means |
//! |---|---|---|
//! | `retry-after` | seconds, or a date | [not before](retry_after) |
//! | `grpc-retry-pushback-ms` | milliseconds, 0 or more | [not before](pushback) |
//! | `grpc-retry-pushback-ms` | negative, or malformed | [do not retry](Pushback::stops) |
//! | `x-should-retry` | `false` | [do not retry](should_not_retry) |
//!
//! A hint can forbid or delay a retry. No hint can cause a retry that the caller would not make.
//! `x-should-retry: true` is ignored.
//!
//! # Malformed headers
//!
//! Headers come from untrusted peers. A line that breaks the rules of its header is ignored and
//! [counted](Parsed::malformed). The other lines of the header are still used. There are three
//! exceptions. A malformed pushback [forbids a retry](Pushback::Malformed). A malformed
//! `grpc-status` is read as [`GrpcCode::Unknown`]. An unknown value of `x-should-retry` is ignored
//! and not counted. No value makes a reader panic, overflow or allocate.

mod attempt;
mod grpc;
mod line;
mod retry;
mod time;

pub(super) use self::{attempt::count_value, grpc::is_tonic_timeout, time::millis_value};
pub use self::{
    attempt::{ATTEMPT_COUNT, PREVIOUS_ATTEMPTS, attempt_count, previous_attempts},
    grpc::{GRPC_MESSAGE, GRPC_STATUS, GrpcCode, grpc_status, is_grpc},
    line::Parsed,
    retry::{
        LONGEST_RETRY_AFTER, PUSHBACK, Pushback, RATELIMITED, SHOULD_RETRY, pushback, retry_after,
        should_not_retry,
    },
    time::{
        CONNECT_TIMEOUT, EXPECTED_TIMEOUT, GRPC_TIMEOUT, connect_timeout, expected_timeout,
        grpc_timeout, grpc_timeout_value,
    },
};

#[cfg(test)]
mod tests;
