//! The headers by which one hop tells the next how much time a call has left and whether to retry it.
//!
//! Nothing here acts: these are readers and writers over a [`HeaderMap`](http::HeaderMap), which
//! the layers of [`http`](crate::http) are made of, for those who build such a layer of their own.
//! None of them invents a header: each is one that gRPC, Connect or Envoy already speaks.
//!
//! # With a request: the time that is left
//!
//! | header | on | value | read | written |
//! |---|---|---|---|---|
//! | `grpc-timeout` | gRPC | one to eight digits and a unit: `H`, `M`, `S`, `m`, `u` or `n` | yes | yes |
//! | `x-envoy-expected-rq-timeout-ms` | HTTP | milliseconds | yes | yes |
//! | `connect-timeout-ms` | Connect | milliseconds, at most ten digits | yes | no |
//!
//! A call is gRPC by its [content type](is_grpc). The header is written beneath the attempt timeout,
//! afresh for each attempt, so that it tells what this attempt has left and not what the call had at
//! first. It is rounded down: who works for a caller must not believe that the caller waits longer
//! than it does. A time that would be rounded down to nothing is not written, and the call is
//! refused, because to Envoy a timeout of zero is none at all.
//!
//! What is read only ever narrows a deadline, and of several lines the shortest time counts, so that
//! a line more never buys time. Of the time that is read a server keeps 5 %, but at least 1 ms and at
//! most 100 ms, to answer in.
//!
//! `x-envoy-upstream-rq-timeout-ms`, `x-envoy-max-retries` and `x-envoy-retry-on` are orders to a
//! router, and no account of what a caller does. They are never read.
//!
//! # With a request: the attempt
//!
//! | header | on | first attempt | after that |
//! |---|---|---|---|
//! | `grpc-previous-rpc-attempts` | gRPC | absent | 1, 2 .. |
//! | `x-envoy-attempt-count` | HTTP | absent | 2, 3 .. |
//!
//! They are for telemetry and for [`Attempt::current`](crate::context::Attempt::current). Nothing is decided
//! by them: a caller could write there what it likes.
//!
//! # With an answer: do not retry
//!
//! | header | on | value |
//! |---|---|---|
//! | `grpc-retry-pushback-ms` | gRPC, answers that are trailers only | `-1` |
//! | `x-should-retry` | HTTP | `false` |
//! | `x-envoy-ratelimited` | HTTP, only where it is asked for | any |
//!
//! A hop that has retried in vain says so, or else the hops above retry its retries. Envoy does not
//! know `x-should-retry`; what keeps it from retrying is `x-envoy-ratelimited`.
//!
//! # With an answer: when to come back
//!
//! | header | value | means |
//! |---|---|---|
//! | `retry-after` | seconds, or a date | [not before](retry_after) |
//! | `grpc-retry-pushback-ms` | milliseconds, 0 or more | [not before](pushback) |
//! | `grpc-retry-pushback-ms` | negative, or not to be understood | [do not retry](Pushback::stops) |
//! | `x-should-retry` | `false` | [do not retry](should_not_retry) |
//!
//! A hint can forbid a retry or delay it. None can bring one about that the caller would not make:
//! `x-should-retry: true` is ignored.
//!
//! # What is not to be understood
//!
//! Headers come from strangers. A line that breaks the rules of its header is ignored and
//! [counted](Parsed::malformed), and the lines beside it still hold; pushback alone is different,
//! and [says why](Pushback::Malformed). No value makes a reader panic, overflow or allocate.

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
