//! The headers by which one hop tells the next how much time a call has left and whether to retry it.
//!
//! Nothing here acts: these are readers and writers over a [`HeaderMap`], which the layers of
//! [`http`](crate::http) are made of, for those who build such a layer of their own. None of them
//! invents a header: each is one that gRPC, Connect or Envoy already speaks.
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
//! They are for telemetry and for [`Attempt::current`](crate::Attempt::current). Nothing is decided
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
//! [counted](Read::malformed), and the lines beside it still hold; pushback alone is different, and
//! [says why](Pushback::Malformed). No value makes a reader panic, overflow or allocate.

use std::time::{Duration, SystemTime};

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONTENT_TYPE, DATE, RETRY_AFTER},
};

/// `grpc-timeout`: the time that is left, in gRPC.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// `x-envoy-expected-rq-timeout-ms`: the time that is left, as Envoy tells it to what it calls.
pub const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");

/// `connect-timeout-ms`: the time that is left, in the Connect protocol.
pub const CONNECT_TIMEOUT: HeaderName = HeaderName::from_static("connect-timeout-ms");

/// `grpc-previous-rpc-attempts`: how many attempts there were before this one.
pub const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

/// `x-envoy-attempt-count`: which attempt this is; the first is 1.
pub const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

/// `grpc-retry-pushback-ms`: how long to wait before a retry, or not to retry.
pub const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// `x-should-retry`: `false` asks not to retry.
pub const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// `x-envoy-ratelimited`: keeps an Envoy from retrying, whatever its value.
pub const RATELIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

/// `grpc-status`: how a gRPC call ended.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// `grpc-message`: the words that go with a `grpc-status`, percent-encoded.
pub const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The longest wait that [`retry_after`] returns: 365 days. Whoever asks for more means never, and
/// this is never enough, while it can still be added to any clock.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The most digits of a `grpc-timeout`.
const GRPC_TIMEOUT_DIGITS: usize = 8;
const GRPC_TIMEOUT_MAX: u64 = 99_999_999;

/// The most digits of a `connect-timeout-ms`.
const CONNECT_TIMEOUT_DIGITS: usize = 10;

/// What fits ten digits. Some readers turn milliseconds into nanoseconds, in 64 bits with a sign: more
/// than this could become negative there.
const MILLIS_MAX: u64 = 9_999_999_999;

/// As many digits as the largest `u64` has.
const U64_DIGITS: usize = 20;

/// As many digits as the largest `u32` and the largest `i32` have.
const U32_DIGITS: usize = 10;

/// What a header says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Read<T> {
    /// The value; `None` if there is no line, or none that can be understood.
    pub value: Option<T>,
    /// How many lines were ignored because they cannot be understood.
    pub malformed: u32,
}

/// Reads every line of a header; of those that can be understood, `prefer` picks one.
fn read<T>(
    headers: &HeaderMap,
    name: HeaderName,
    parse: impl Fn(&[u8]) -> Option<T>,
    prefer: impl Fn(T, T) -> T,
) -> Read<T> {
    let mut read = Read { value: None, malformed: 0 };
    for line in headers.get_all(name) {
        match (read.value.take(), parse(trim(line.as_bytes()))) {
            (Some(value), Some(another)) => read.value = Some(prefer(value, another)),
            (None, Some(first)) => read.value = Some(first),
            (value, None) => {
                read.value = value;
                read.malformed = read.malformed.saturating_add(1);
            }
        }
    }
    read
}

/// Without the whitespace that HTTP allows around a value, which is less than `trim_ascii` removes.
fn trim(mut line: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = line {
        line = rest;
    }
    line
}

/// A number of nothing but digits, at least one and at most `most`.
fn number(text: &[u8], most: usize) -> Option<u64> {
    if text.is_empty() || text.len() > most {
        return None;
    }
    text.iter().try_fold(0u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// The time that is left by `grpc-timeout`; of several lines the shortest time counts.
///
/// Zero is read as no time left, although gRPC's grammar wants a positive number: some clients write
/// it once their deadline has passed, and to ignore it would give the call all the time there is.
pub fn grpc_timeout(headers: &HeaderMap) -> Read<Duration> {
    read(headers, GRPC_TIMEOUT, parse_grpc_timeout, Duration::min)
}

fn parse_grpc_timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    let count = number(digits, GRPC_TIMEOUT_DIGITS)?;
    // Eight digits of hours are far from the end of a `u64` of seconds.
    match unit {
        b'H' => Some(Duration::from_secs(count * 3_600)),
        b'M' => Some(Duration::from_secs(count * 60)),
        b'S' => Some(Duration::from_secs(count)),
        b'm' => Some(Duration::from_millis(count)),
        b'u' => Some(Duration::from_micros(count)),
        b'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// The time that is left by `x-envoy-expected-rq-timeout-ms`; of several lines the shortest time
/// counts.
///
/// Zero is malformed: Envoy never writes it, and elsewhere takes it for no limit, which is the
/// opposite of no time.
pub fn expected_timeout(headers: &HeaderMap) -> Read<Duration> {
    let parse = |text: &[u8]| match number(text, U64_DIGITS)? {
        0 => None,
        millis => Some(Duration::from_millis(millis)),
    };
    read(headers, EXPECTED_TIMEOUT, parse, Duration::min)
}

/// The time that is left by `connect-timeout-ms`; of several lines the shortest time counts.
///
/// Zero is read as no time left, as in [`grpc_timeout`].
pub fn connect_timeout(headers: &HeaderMap) -> Read<Duration> {
    let parse = |text: &[u8]| number(text, CONNECT_TIMEOUT_DIGITS).map(Duration::from_millis);
    read(headers, CONNECT_TIMEOUT, parse, Duration::min)
}

/// How many attempts there were before this one, by `grpc-previous-rpc-attempts`.
///
/// Of several lines the largest number counts: a hop that adds its own line instead of replacing the
/// one it was sent must not hide the retries of the hop above. Zero is malformed, since the first
/// attempt has no such header.
pub fn previous_attempts(headers: &HeaderMap) -> Read<u32> {
    read(headers, PREVIOUS_ATTEMPTS, parse_count, u32::max)
}

/// Which attempt this is, by `x-envoy-attempt-count`; the first is 1, which Envoy writes and this
/// crate does not.
///
/// Of several lines the largest number counts, as in [`previous_attempts`]. Zero is malformed.
pub fn attempt_count(headers: &HeaderMap) -> Read<u32> {
    read(headers, ATTEMPT_COUNT, parse_count, u32::max)
}

fn parse_count(text: &[u8]) -> Option<u32> {
    u32::try_from(number(text, U32_DIGITS)?).ok().filter(|count| *count > 0)
}

/// What `grpc-retry-pushback-ms` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushback {
    /// Nothing: the answer has no such header.
    Absent,
    /// Retry, but not before this much time has gone by.
    After(Duration),
    /// Do not retry.
    Stop,
    /// Do not retry either: something was meant, and it cannot be understood. gRPC's proposal A6 wants
    /// it so, since of all that a server in trouble can mean, leaving it alone is the safe guess.
    Malformed,
}

impl Pushback {
    /// Whether it forbids a retry.
    pub fn stops(self) -> bool {
        matches!(self, Self::Stop | Self::Malformed)
    }
}

/// What `grpc-retry-pushback-ms` says: it is a whole number of 32 bits, on one line.
///
/// Two lines are malformed even if they agree, and so is a number that does not fit, negative or not.
pub fn pushback(headers: &HeaderMap) -> Pushback {
    let mut lines = headers.get_all(PUSHBACK).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Pushback::Absent,
        (Some(line), None) => parse_pushback(trim(line.as_bytes())).unwrap_or(Pushback::Malformed),
        (Some(_), Some(_)) => Pushback::Malformed,
    }
}

fn parse_pushback(text: &[u8]) -> Option<Pushback> {
    if let [b'-', digits @ ..] = text {
        let fits = number(digits, U32_DIGITS)? <= u64::from(i32::MIN.unsigned_abs());
        return fits.then_some(Pushback::Stop);
    }
    let millis = i32::try_from(number(text, U32_DIGITS)?).ok()?;
    Some(Pushback::After(Duration::from_millis(u64::from(millis.unsigned_abs()))))
}

/// How long to wait before coming back, by `Retry-After`; of several lines the longest wait counts,
/// since coming back early is what the server asked not to be done.
///
/// A date is measured against the `Date` of the same answer: both come from one clock, so it does not
/// matter how wrong that clock is, nor how wrong ours. What the answer spent on its way is not taken
/// off, which at worst makes the wait longer. Only an answer without a readable `Date` is measured
/// against the system's clock. A date in the past is no wait at all, and no wait is longer than
/// [`LONGEST_RETRY_AFTER`].
///
/// All three forms of a date that HTTP knows are understood.
pub fn retry_after(headers: &HeaderMap) -> Read<Duration> {
    retry_after_by(headers, SystemTime::now)
}

fn retry_after_by(headers: &HeaderMap, now: impl Fn() -> SystemTime) -> Read<Duration> {
    let parse = |text: &[u8]| {
        let wait = match seconds(text) {
            Some(wait) => wait,
            None => {
                let until = date(text)?;
                let from = headers.get_all(DATE).iter().find_map(|line| date(line.as_bytes()));
                until.duration_since(from.unwrap_or_else(&now)).unwrap_or(Duration::ZERO)
            }
        };
        Some(wait.min(LONGEST_RETRY_AFTER))
    };
    read(headers, RETRY_AFTER, parse, Duration::max)
}

/// Seconds of any number of digits: HTTP wants a number that is too large to be taken for a large one.
fn seconds(text: &[u8]) -> Option<Duration> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(Duration::from_secs(number(text, U64_DIGITS).unwrap_or(u64::MAX)))
}

fn date(text: &[u8]) -> Option<SystemTime> {
    httpdate::parse_http_date(std::str::from_utf8(text).ok()?).ok()
}

/// Whether `x-should-retry` asks not to retry: one of its lines is `false`, in any case of letters.
///
/// Every other value is ignored, `true` above all: nothing that a server says can force a retry.
pub fn should_not_retry(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(SHOULD_RETRY).iter();
    lines.any(|line| trim(line.as_bytes()).eq_ignore_ascii_case(b"false"))
}

/// Whether a request or an answer is gRPC, by its content type: `application/grpc`, with or without a
/// format such as `+proto`.
///
/// `application/grpc-web` is another protocol and is not meant.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    const GRPC: &[u8] = b"application/grpc";

    let Some(value) = headers.get(CONTENT_TYPE) else { return false };
    match trim(value.as_bytes()).split_at_checked(GRPC.len()) {
        Some((start, rest)) => {
            start.eq_ignore_ascii_case(GRPC)
                && matches!(rest, [] | [b'+' | b';' | b' ' | b'\t', ..])
        }
        None => false,
    }
}

/// A status code of gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The call went well.
    Ok = 0,
    /// The call was given up, mostly by the caller.
    Cancelled = 1,
    /// Nobody knows what went wrong.
    Unknown = 2,
    /// The arguments are wrong, whatever state the service is in.
    InvalidArgument = 3,
    /// The deadline passed before the call was done.
    DeadlineExceeded = 4,
    /// What was asked for does not exist.
    NotFound = 5,
    /// What was to be created exists.
    AlreadyExists = 6,
    /// The caller may not do this.
    PermissionDenied = 7,
    /// Something has run out: a quota, or room.
    ResourceExhausted = 8,
    /// The service is not in the state that the call needs.
    FailedPrecondition = 9,
    /// The call got in the way of another one.
    Aborted = 10,
    /// The call went past the end of what there is.
    OutOfRange = 11,
    /// The service cannot do this.
    Unimplemented = 12,
    /// Something is broken within.
    Internal = 13,
    /// The service is not there just now.
    Unavailable = 14,
    /// Data is lost for good.
    DataLoss = 15,
    /// It is not known who the caller is.
    Unauthenticated = 16,
}

impl Code {
    /// All of them, each at the place of its number.
    const ALL: [Self; 17] = [
        Self::Ok,
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// The code of a number; `None` if gRPC has none.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Its number, as it stands in `grpc-status`.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Its name as gRPC writes it, such as `DEADLINE_EXCEEDED`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Cancelled => "CANCELLED",
            Self::Unknown => "UNKNOWN",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Aborted => "ABORTED",
            Self::OutOfRange => "OUT_OF_RANGE",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Internal => "INTERNAL",
            Self::Unavailable => "UNAVAILABLE",
            Self::DataLoss => "DATA_LOSS",
            Self::Unauthenticated => "UNAUTHENTICATED",
        }
    }
}

/// How a gRPC call ended, by `grpc-status` in its headers or trailers; `None` if it is not there.
///
/// What cannot be understood is [`Code::Unknown`], and so are several lines that do not agree.
pub fn grpc_status(headers: &HeaderMap) -> Option<Code> {
    let parse = |line: &HeaderValue| {
        let number = number(trim(line.as_bytes()), 2).and_then(|number| u8::try_from(number).ok());
        number.and_then(Code::from_number).unwrap_or(Code::Unknown)
    };
    let mut lines = headers.get_all(GRPC_STATUS).iter().map(parse);
    let first = lines.next()?;
    Some(if lines.all(|code| code == first) { first } else { Code::Unknown })
}

/// Whether this is what tonic answers when its own timer ends a call.
///
/// tonic calls that `CANCELLED`, which otherwise means that the caller gave up, and says nothing about
/// the service. Only the message tells the two apart.
pub fn is_tonic_timeout(headers: &HeaderMap) -> bool {
    let mut messages = headers.get_all(GRPC_MESSAGE).iter().map(|line| trim(line.as_bytes()));
    grpc_status(headers) == Some(Code::Cancelled)
        && messages.any(|message| matches!(message, b"Timeout%20expired" | b"Timeout expired"))
}

/// The value of a `grpc-timeout` header, in the finest unit that holds it in eight digits, rounded
/// down; `None` if there is no time left.
///
/// What is too long for eight digits of hours becomes `99999999H`.
pub fn grpc_timeout_value(left: Duration) -> Option<HeaderValue> {
    let seconds = left.as_secs();
    let units = [
        (left.as_nanos(), b'n'),
        (left.as_micros(), b'u'),
        (left.as_millis(), b'm'),
        (u128::from(seconds), b'S'),
        (u128::from(seconds / 60), b'M'),
        (u128::from(seconds / 3_600), b'H'),
    ];
    if left.is_zero() {
        return None;
    }
    let fitting = units.into_iter().find_map(|(count, unit)| {
        let count = u64::try_from(count).ok().filter(|count| *count <= GRPC_TIMEOUT_MAX)?;
        Some((count, unit))
    });
    let (count, unit) = fitting.unwrap_or((GRPC_TIMEOUT_MAX, b'H'));
    written(count, Some(unit))
}

/// The value of an `x-envoy-expected-rq-timeout-ms` header, rounded down; `None` if there is less than
/// a millisecond left.
///
/// What is too long for ten digits, which is four months, becomes `9999999999`.
pub fn millis_value(left: Duration) -> Option<HeaderValue> {
    let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).min(MILLIS_MAX);
    if millis == 0 { None } else { written(millis, None) }
}

/// The value of a header that counts attempts.
pub fn count_value(count: u32) -> HeaderValue {
    HeaderValue::from(count)
}

/// A number, and its unit if it has one.
fn written(mut number: u64, unit: Option<u8>) -> Option<HeaderValue> {
    let mut text = [0u8; U64_DIGITS + 1];
    let mut start = text.len();
    let mut put = |byte| {
        start -= 1;
        text[start] = byte;
    };
    unit.into_iter().for_each(&mut put);
    loop {
        put(b'0' + (number % 10) as u8);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    // Digits and a letter are always a valid value.
    HeaderValue::from_bytes(&text[start..]).ok()
}

#[cfg(test)]
mod tests;
