//! Tests of gRPC retries, row by row of proposal A6 ("gRPC Retry Design").

#![cfg(feature = "http")]

mod call;
mod jitter;
#[cfg(feature = "hyper")]
mod peer;
mod sockets;
#[cfg(feature = "hyper")]
mod streams;
mod throttle;

use std::{io::ErrorKind, time::Duration};

use buttress::http::wire::GrpcCode::{
    Aborted, DeadlineExceeded, InvalidArgument, Ok as Fine, ResourceExhausted, Unavailable,
};
use tokio::time::Instant;

use self::call::{
    Answer::{Committed, Fails, Hangs, Message, Status},
    End, Row, Seen, Upload,
};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The first pause of the table. The pauses have no jitter: 100, 200, 400 and 800 ms.
const INITIAL: Duration = ms(100);

/// The maximum size of a replayed body.
const CAP: usize = 64 << 10;

const TABLE: &[Row] = &[
    // The failures that are retried.
    Row { name: "OK is not retried", answers: &[Status(Fine, &[])], ..Row::SENT_ONCE },
    Row {
        name: "UNAVAILABLE is retried",
        answers: &[Status(Unavailable, &[])],
        sent: &[(0, ""), (100, "1")],
        ..Row::SENT_ONCE
    },
    Row {
        name: "INVALID_ARGUMENT is not retried",
        answers: &[Status(InvalidArgument, &[])],
        end: End::Code(InvalidArgument),
        ..Row::SENT_ONCE
    },
    Row {
        name: "a failure that is not retryable ends the retrying",
        answers: &[Status(Unavailable, &[]), Status(Aborted, &[])],
        sent: &[(0, ""), (100, "1")],
        end: End::Code(Aborted),
        ..Row::SENT_ONCE
    },
    Row {
        name: "a method that is not declared safe is not retried",
        answers: &[Status(Unavailable, &[])],
        safe: false,
        end: End::Code(Unavailable),
        ..Row::SENT_ONCE
    },
    // The number of attempts.
    Row {
        name: "maxAttempts 2 counts the first",
        answers: &[Status(Unavailable, &[]); 9],
        max_attempts: 2,
        sent: &[(0, ""), (100, "1")],
        end: End::Code(Unavailable),
        ..Row::SENT_ONCE
    },
    Row {
        name: "maxAttempts 5 counts the first",
        answers: &[Status(Unavailable, &[]); 9],
        max_attempts: 5,
        sent: &[(0, ""), (100, "1"), (300, "2"), (700, "3"), (1_500, "4")],
        end: End::Code(Unavailable),
        ..Row::SENT_ONCE
    },
    Row {
        name: "maxAttempts 1 is no retry",
        answers: &[Status(Unavailable, &[])],
        max_attempts: 1,
        end: End::Code(Unavailable),
        ..Row::SENT_ONCE
    },
    // Pushback.
    Row {
        name: "pushback 0 is at once, and the backoff begins anew",
        answers: &[
            Status(Unavailable, &[]),
            Status(Unavailable, &["0"]),
            Status(Unavailable, &[]),
            Status(Unavailable, &[]),
        ],
        max_attempts: 5,
        sent: &[(0, ""), (100, "1"), (100, "2"), (200, "3"), (400, "4")],
        ..Row::SENT_ONCE
    },
    Row {
        name: "pushback 250 is after 250 ms, and the backoff begins anew",
        answers: &[
            Status(Unavailable, &[]),
            Status(Unavailable, &["250"]),
            Status(Unavailable, &[]),
            Status(Unavailable, &[]),
        ],
        max_attempts: 5,
        sent: &[(0, ""), (100, "1"), (350, "2"), (450, "3"), (650, "4")],
        ..Row::SENT_ONCE
    },
    Row {
        name: "pushback on RESOURCE_EXHAUSTED",
        answers: &[Status(ResourceExhausted, &["250"])],
        sent: &[(0, ""), (250, "1")],
        ..Row::SENT_ONCE
    },
    Row {
        name: "pushback does not make a failure retryable",
        answers: &[Status(InvalidArgument, &["0"])],
        end: End::Code(InvalidArgument),
        ..Row::SENT_ONCE
    },
    Row {
        name: "pushback does not make a method safe",
        answers: &[Status(Unavailable, &["0"])],
        safe: false,
        end: End::Code(Unavailable),
        ..Row::SENT_ONCE
    },
    Row {
        name: "pushback when the attempts are spent",
        answers: &[Status(Unavailable, &[]), Status(Unavailable, &["0"])],
        max_attempts: 2,
        sent: &[(0, ""), (100, "1")],
        end: End::Code(Unavailable),
        ..Row::SENT_ONCE
    },
    Row {
        name: "pushback longer than who calls will wait",
        answers: &[Status(Unavailable, &["2147483647"])],
        end: End::Code(Unavailable),
        ..Row::SENT_ONCE
    },
    Row { name: "pushback -1", answers: &[Status(Unavailable, &["-1"])], ..Row::STOPPED },
    Row {
        name: "pushback -2^31",
        answers: &[Status(Unavailable, &["-2147483648"])],
        ..Row::STOPPED
    },
    Row {
        name: "pushback -1 after a retry",
        answers: &[Status(Unavailable, &[]), Status(Unavailable, &["-1"])],
        sent: &[(0, ""), (100, "1")],
        ..Row::STOPPED
    },
    Row { name: "pushback empty", answers: &[Status(Unavailable, &[""])], ..Row::MALFORMED },
    Row { name: "pushback abc", answers: &[Status(Unavailable, &["abc"])], ..Row::MALFORMED },
    Row { name: "pushback 1.5", answers: &[Status(Unavailable, &["1.5"])], ..Row::MALFORMED },
    Row { name: "pushback +5", answers: &[Status(Unavailable, &["+5"])], ..Row::MALFORMED },
    Row { name: "pushback -", answers: &[Status(Unavailable, &["-"])], ..Row::MALFORMED },
    Row { name: "pushback not ASCII", answers: &[Status(Unavailable, &["²"])], ..Row::MALFORMED },
    Row {
        name: "pushback 2^31",
        answers: &[Status(Unavailable, &["2147483648"])],
        ..Row::MALFORMED
    },
    Row {
        name: "pushback beyond 64 bits",
        answers: &[Status(Unavailable, &["18446744073709551616"])],
        ..Row::MALFORMED
    },
    Row {
        name: "pushback twice",
        answers: &[Status(Unavailable, &["10", "250"])],
        ..Row::MALFORMED
    },
    Row {
        name: "pushback twice the same",
        answers: &[Status(Unavailable, &["250", "250"])],
        ..Row::MALFORMED
    },
    Row {
        name: "pushback that is malformed on a failure that is not retryable",
        answers: &[Status(InvalidArgument, &["abc"])],
        end: End::Code(InvalidArgument),
        ..Row::MALFORMED
    },
    // The events that commit a call.
    Row {
        name: "headers commit",
        answers: &[Committed(Unavailable, &[])],
        end: End::Code(Unavailable),
        ..Row::SENT_ONCE
    },
    Row {
        name: "headers commit, whatever pushback stands in the trailers",
        answers: &[Committed(Unavailable, &["0"])],
        end: End::Code(Unavailable),
        ..Row::SENT_ONCE
    },
    Row {
        name: "headers commit the second attempt too",
        answers: &[Status(Unavailable, &[]), Committed(Unavailable, &[])],
        sent: &[(0, ""), (100, "1")],
        end: End::Code(Unavailable),
        ..Row::SENT_ONCE
    },
    Row {
        name: "headers do not commit where that is asked for",
        answers: &[Committed(Unavailable, &[]), Committed(Unavailable, &["250"])],
        first_frame: Some(call::METHOD),
        sent: &[(0, ""), (100, "1"), (350, "2")],
        ..Row::SENT_ONCE
    },
    Row {
        name: "headers commit where that is asked for of another method",
        answers: &[Committed(Unavailable, &[])],
        first_frame: Some("/orders.Orders/Watch"),
        end: End::Code(Unavailable),
        ..Row::SENT_ONCE
    },
    Row {
        name: "pushback -1 in trailers, where headers do not commit",
        answers: &[Committed(Unavailable, &["-1"])],
        first_frame: Some(call::METHOD),
        ..Row::STOPPED
    },
    Row {
        name: "pushback abc in trailers, where headers do not commit",
        answers: &[Committed(Unavailable, &["abc"])],
        first_frame: Some(call::METHOD),
        ..Row::MALFORMED
    },
    Row {
        name: "a message commits even so",
        answers: &[Message(Unavailable)],
        first_frame: Some(call::METHOD),
        end: End::Code(Unavailable),
        ..Row::SENT_ONCE
    },
    Row {
        name: "a body at the cap is sent again whole",
        answers: &[Status(Unavailable, &[])],
        upload: Upload::Known(CAP),
        sent: &[(0, ""), (100, "1")],
        ..Row::SENT_ONCE
    },
    Row {
        name: "a body known to be over the cap commits",
        answers: &[Status(Unavailable, &[])],
        upload: Upload::Known(CAP + 1),
        end: End::Code(Unavailable),
        ..Row::SENT_ONCE
    },
    Row {
        name: "a body of unknown length at the cap is sent again whole",
        answers: &[Status(Unavailable, &[])],
        upload: Upload::Streamed(CAP),
        sent: &[(0, ""), (100, "1")],
        ..Row::SENT_ONCE
    },
    Row {
        name: "a body that grows over the cap commits",
        answers: &[Status(Unavailable, &[])],
        upload: Upload::Streamed(CAP + 1),
        end: End::Code(Unavailable),
        ..Row::SENT_ONCE
    },
    // Errors instead of responses.
    Row {
        name: "a connection that breaks is retried where the method is safe",
        answers: &[Fails(ErrorKind::BrokenPipe)],
        sent: &[(0, ""), (100, "1")],
        ..Row::SENT_ONCE
    },
    Row {
        name: "a connection that breaks proves nothing",
        answers: &[Fails(ErrorKind::BrokenPipe)],
        safe: false,
        end: End::Failed(ErrorKind::BrokenPipe),
        ..Row::SENT_ONCE
    },
    Row {
        name: "a connection that is refused is retried whatever the method",
        answers: &[Fails(ErrorKind::ConnectionRefused)],
        safe: false,
        sent: &[(0, ""), (100, "1")],
        ..Row::SENT_ONCE
    },
    Row {
        name: "a connection that is refused is an attempt",
        answers: &[Fails(ErrorKind::ConnectionRefused); 9],
        safe: false,
        max_attempts: 3,
        sent: &[(0, ""), (100, "1"), (300, "2")],
        end: End::Failed(ErrorKind::ConnectionRefused),
        ..Row::SENT_ONCE
    },
    Row {
        name: "a connection that is refused leaves a long body untouched",
        answers: &[Fails(ErrorKind::ConnectionRefused), Fails(ErrorKind::ConnectionRefused)],
        safe: false,
        upload: Upload::Streamed(4 * CAP),
        sent: &[(0, ""), (100, "1"), (300, "2")],
        ..Row::SENT_ONCE
    },
    Row {
        name: "a connection that is refused says nothing of the attempt after it",
        answers: &[Fails(ErrorKind::ConnectionRefused), Status(Unavailable, &[])],
        safe: false,
        sent: &[(0, ""), (100, "1")],
        end: End::Code(Unavailable),
        ..Row::SENT_ONCE
    },
    // The deadline.
    Row {
        name: "each attempt is told what is left",
        answers: &[Status(Unavailable, &[]), Status(Unavailable, &[])],
        total: Some(1_000),
        sent: &[(0, ""), (100, "1"), (300, "2")],
        time_left: &["1000000u", "900000u", "700000u"],
        ..Row::SENT_ONCE
    },
    Row {
        name: "the deadline ends the last of many attempts",
        answers: &[Status(Unavailable, &[]), Status(Unavailable, &[]), Hangs],
        total: Some(1_000),
        sent: &[(0, ""), (100, "1"), (300, "2")],
        time_left: &["1000000u", "900000u", "700000u"],
        ended: Some(1_000),
        end: End::Rejected("timed_out"),
        ..Row::SENT_ONCE
    },
    Row {
        name: "a retry that would come after the deadline is not waited for",
        answers: &[Status(Unavailable, &[]); 9],
        max_attempts: 9,
        total: Some(700),
        sent: &[(0, ""), (100, "1"), (300, "2")],
        time_left: &["700000u", "600000u", "400000u"],
        end: End::Code(Unavailable),
        ..Row::SENT_ONCE
    },
    Row {
        name: "nor is pushback past the deadline",
        answers: &[Status(Unavailable, &["250"])],
        total: Some(250),
        time_left: &["250000u"],
        end: End::Code(Unavailable),
        ..Row::SENT_ONCE
    },
    Row {
        name: "DEADLINE_EXCEEDED of a server is retried while there is time",
        answers: &[Status(DeadlineExceeded, &[])],
        total: Some(200),
        sent: &[(0, ""), (100, "1")],
        time_left: &["200000u", "100000u"],
        ..Row::SENT_ONCE
    },
];

impl Row {
    /// A call of a safe method, of up to four attempts, with a short body and without a deadline.
    ///
    /// Requests after the end of the script get `OK`.
    const SENT_ONCE: Self = Self {
        name: "",
        answers: &[],
        max_attempts: 4,
        safe: true,
        first_frame: None,
        upload: Upload::Known(5),
        total: None,
        sent: &[(0, "")],
        time_left: &[],
        ended: None,
        end: End::Code(Fine),
        malformed: 0,
    };

    /// A call that the server asked not to retry.
    const STOPPED: Self = Self { end: End::Code(Unavailable), ..Self::SENT_ONCE };

    /// A call that the server probably asked not to retry, with a malformed header.
    const MALFORMED: Self = Self { malformed: 1, ..Self::STOPPED };
}

#[tokio::test(start_paused = true)]
async fn calls_are_retried_as_the_table_says() {
    let mut wrong = String::new();
    for row in TABLE {
        let (expected, seen) = (Seen::expected(row), call::run(row).await);
        if seen != expected {
            wrong += &format!("\n{}\n  expected {expected:?}\n  seen     {seen:?}", row.name);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[tokio::test(start_paused = true)]
async fn of_the_statuses_only_those_are_retried_that_may_pass() {
    let mut retried = Vec::new();
    for number in 0..=16 {
        let code = buttress::http::wire::GrpcCode::from_number(number).unwrap();
        let began = Instant::now();
        let answers = vec![Status(code, &[])];
        let sends = call::Scripted::new(&answers);
        call::send(&Row::SENT_ONCE, &sends, call::retry(&Row::SENT_ONCE)).await.unwrap();
        if sends.seen().len() == 2 {
            assert_eq!(began.elapsed(), INITIAL);
            retried.push(code.as_str());
        }
    }
    let expected = [
        "UNKNOWN",
        "DEADLINE_EXCEEDED",
        "RESOURCE_EXHAUSTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
    ];
    assert_eq!(retried, expected);
}
