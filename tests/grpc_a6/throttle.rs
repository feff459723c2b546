//! Tests of retry throttling, with one bucket for many calls.

use std::io::ErrorKind;

use buttress::{
    http::wire::GrpcCode::{InvalidArgument, NotFound, Ok as Fine, Unavailable},
    retry::Budget,
};

use super::call::{
    Answer::{self, Committed, Fails, Status},
    Row, Scripted, retry, send,
};

/// A call of up to four attempts: its responses, the number of requests, and the tokens after it.
type Call = (&'static [Answer], usize, f64);

async fn run(max_tokens: u32, ratio: f64, calls: &[Call]) {
    let budget = Budget::throttle().max_tokens(max_tokens).token_ratio(ratio).build().unwrap();
    for (number, (answers, sends, tokens)) in calls.iter().enumerate() {
        let scripted = Scripted::new(answers);
        let retry = retry(&Row::SENT_ONCE).budget(budget.clone());
        let _ = send(&Row::SENT_ONCE, &scripted, retry).await;
        assert_eq!((scripted.seen().len(), budget.balance()), (*sends, *tokens), "call {number}");
    }
}

const FAILING: &[Answer] = &[Status(Unavailable, &[]); 4];

#[tokio::test(start_paused = true)]
async fn it_stops_at_half_the_tokens_and_recovers() {
    let calls = [
        (FAILING, 3, 3.0),
        (FAILING, 1, 2.0),
        (FAILING, 1, 1.0),
        (FAILING, 1, 0.0),
        // The balance is never below zero.
        (FAILING, 1, 0.0),
        (&[], 1, 1.5),
        (&[], 1, 3.0),
        (FAILING, 1, 2.0),
        (&[], 1, 3.5),
        (&[], 1, 5.0),
        // The balance is never above the maximum.
        (&[], 1, 6.0),
        (FAILING, 3, 3.0),
        (&[], 1, 4.5),
        // More than half of the tokens are left after the first failure, and not after the
        // second.
        (FAILING, 2, 2.5),
    ];
    run(6, 1.5, &calls).await;
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_goes_well_costs_what_its_failure_did() {
    run(10, 0.5, &[(&[Status(Unavailable, &[])], 2, 9.5)]).await;
}

#[tokio::test(start_paused = true)]
async fn to_be_told_to_stop_is_a_failure_whatever_the_status() {
    let calls: [Call; 7] = [
        (&[Status(InvalidArgument, &[])], 1, 10.0),
        (&[Status(InvalidArgument, &["250"])], 1, 10.0),
        (&[Status(InvalidArgument, &["-1"])], 1, 9.0),
        (&[Status(NotFound, &["abc"])], 1, 8.0),
        // It counts once, and not a second time for the pushback.
        (&[Status(Unavailable, &["-1"])], 1, 7.0),
        (&[Status(Unavailable, &["1", "1"])], 1, 6.0),
        (&[Status(Fine, &["-1"])], 1, 6.5),
    ];
    run(10, 0.5, &calls).await;
}

#[tokio::test(start_paused = true)]
async fn a_committed_call_counts_by_its_trailers() {
    let calls: [Call; 3] = [
        (&[Committed(Unavailable, &[])], 1, 9.0),
        (&[Committed(Fine, &[])], 1, 9.5),
        // A server that responds is well. A6 pays in only for `OK`.
        (&[Committed(InvalidArgument, &[])], 1, 10.0),
    ];
    run(10, 0.5, &calls).await;
}

#[tokio::test(start_paused = true)]
async fn a_response_about_the_request_pays_in_like_a_success() {
    let calls: [Call; 6] = [
        (FAILING, 4, 6.0),
        (&[Status(NotFound, &[])], 1, 6.5),
        (&[Committed(NotFound, &[])], 1, 7.0),
        (&[Status(InvalidArgument, &["250"])], 1, 7.5),
        // Unless it forbids the retry, which A6 counts as a failure.
        (&[Status(NotFound, &["-1"])], 1, 6.5),
        (FAILING, 2, 4.5),
    ];
    run(10, 0.5, &calls).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_refused_is_a_failure() {
    run(10, 0.5, &[(&[Fails(ErrorKind::ConnectionRefused)], 2, 9.5)]).await;
}
