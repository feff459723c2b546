//! Tests of single HTTP/2 streams, and whether their end proves that they were not processed.

use buttress::{
    Error,
    http::wire::GrpcCode::{self, Ok as Fine, Unavailable},
    retry::Budget,
};

use super::{
    peer::{
        Deed::{self, Answer, Break, LeaveAfter, LeaveBefore, RefuseMidway, Reset},
        Reason::{Calm, Cancel, Internal, Refused},
        serve,
    },
    sockets::{hyper, retry, send},
};

struct Row {
    name: &'static str,
    deeds: &'static [Deed],
    max_attempts: u32,
    /// The method is declared safe to replay.
    safe: bool,
    body: usize,
    /// The `grpc-previous-rpc-attempts` of each request.
    sent: &'static [&'static str],
    /// The status of the call, or `None` if it fails without one.
    end: Option<GrpcCode>,
    /// The number of retries that a budget pays for.
    retries: u32,
    /// The number of failures that a throttle counts.
    failures: u32,
}

/// A call of a method that is not safe to replay, sent once and failed.
const NOT_RESENT: Row = Row {
    name: "",
    deeds: &[],
    max_attempts: 4,
    safe: false,
    body: 5,
    sent: &[""],
    end: None,
    retries: 0,
    failures: 1,
};

/// The same call, sent again as if it had not been sent, and then successful.
const RESENT: Row = Row { sent: &["", ""], end: Some(Fine), failures: 0, ..NOT_RESENT };

const TABLE: &[Row] = &[
    Row { name: "REFUSED_STREAM", deeds: &[Reset(Refused)], ..RESENT },
    Row { name: "REFUSED_STREAM, safe method", deeds: &[Reset(Refused)], safe: true, ..RESENT },
    Row {
        name: "a second REFUSED_STREAM",
        deeds: &[Reset(Refused), Reset(Refused)],
        sent: &["", "", "1"],
        retries: 1,
        failures: 1,
        ..RESENT
    },
    Row {
        name: "nothing but REFUSED_STREAM",
        deeds: &[Reset(Refused); 9],
        max_attempts: 3,
        sent: &["", "", "1", "2"],
        end: None,
        retries: 2,
        failures: 2,
        ..RESENT
    },
    Row {
        name: "REFUSED_STREAM, then UNAVAILABLE",
        deeds: &[Reset(Refused), Answer(Unavailable)],
        safe: true,
        sent: &["", "", "1"],
        retries: 1,
        failures: 1,
        ..RESENT
    },
    Row {
        name: "REFUSED_STREAM, then UNAVAILABLE, unsafe method",
        deeds: &[Reset(Refused), Answer(Unavailable)],
        end: Some(Unavailable),
        failures: 1,
        ..RESENT
    },
    Row {
        name: "UNAVAILABLE, then REFUSED_STREAM",
        deeds: &[Answer(Unavailable), Reset(Refused)],
        safe: true,
        sent: &["", "1", "1"],
        retries: 1,
        failures: 1,
        ..RESENT
    },
    Row {
        name: "REFUSED_STREAM after some of a body that is kept",
        deeds: &[RefuseMidway],
        body: 60 << 10,
        ..RESENT
    },
    Row {
        name: "REFUSED_STREAM after some of a body that is not kept",
        deeds: &[RefuseMidway],
        body: 1 << 20,
        failures: 0,
        ..NOT_RESENT
    },
    Row { name: "GOAWAY before the stream", deeds: &[LeaveBefore], ..RESENT },
    Row {
        name: "GOAWAY before the stream, twice",
        deeds: &[LeaveBefore, LeaveBefore],
        sent: &["", "", "1"],
        retries: 1,
        failures: 1,
        ..RESENT
    },
    Row { name: "GOAWAY after the stream", deeds: &[LeaveAfter], ..NOT_RESENT },
    Row { name: "a connection that breaks", deeds: &[Break], ..NOT_RESENT },
    Row { name: "CANCEL", deeds: &[Reset(Cancel)], ..NOT_RESENT },
    Row { name: "INTERNAL_ERROR", deeds: &[Reset(Internal)], ..NOT_RESENT },
    Row { name: "ENHANCE_YOUR_CALM", deeds: &[Reset(Calm)], ..NOT_RESENT },
    Row {
        name: "GOAWAY after the stream, safe method",
        deeds: &[LeaveAfter],
        safe: true,
        sent: &["", "1"],
        retries: 1,
        failures: 1,
        ..RESENT
    },
];

#[tokio::test]
async fn only_what_was_proven_not_looked_at_is_sent_again() {
    let mut wrong = String::new();
    for row in TABLE {
        let budget = Budget::builder().ratio(0.0).floor(10).build().unwrap();
        // The deposit of a success is too small to hide a failure.
        let throttle = Budget::throttle().max_tokens(20).token_ratio(0.01).build().unwrap();
        for spent in [&budget, &throttle] {
            let (address, bodies) = serve(row.deeds).await;
            let retry = retry(row.safe, row.max_attempts).budget(spent.clone());
            let (result, sent) = send(&hyper(true), address, row.body, retry).await;
            let end = match result {
                Ok(code) => Some(code),
                Err(Error::Service(_)) => None,
                Err(error) => panic!("{}: {error}", row.name),
            };
            if bodies.lock().unwrap().iter().any(|body| *body != row.body) {
                wrong += &format!("\n{}: bodies of {bodies:?}", row.name);
            }
            if sent != row.sent || end != row.end {
                wrong += &format!("\n{}: sent {sent:?}, ended with {end:?}", row.name);
            }
        }
        let retries = 10.0 - budget.balance();
        let failures = (20.0 - throttle.balance()).ceil();
        if (retries, failures) != (row.retries.into(), row.failures.into()) {
            wrong += &format!("\n{}: {retries} retries, {failures} failures", row.name);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
