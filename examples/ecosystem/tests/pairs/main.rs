//! A table of pairs: our clients, and our servers and plain ones, over sockets.
//!
//! ```sh
//! cargo test -p ecosystem --test pairs -- --nocapture
//! ```
//!
//! prints it in Markdown. The expected values and their reasons are in `table.rs`.

mod client;
mod server;
mod table;

use std::{
    fmt::Write,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use http::{Method, Request};
use tokio::{
    sync::Semaphore,
    task::{JoinSet, yield_now},
    time::advance,
};

use self::{
    client::Counted,
    table::{Asked, By, Case, ROWS, Row, Seen, Server},
};

/// Makes the call of one cell, and returns what happened.
async fn observe(row: &Row, by: By) -> Seen {
    let body = "x".repeat(row.case.length());
    let served = row.server.serve(row.case, body.clone().into()).await;
    let client = Counted::new(by, row.asked, row.case);
    let (method, body) = match row.asked {
        Asked::Keyed | Asked::Post => (Method::POST, body),
        Asked::Get | Asked::Buffered => (Method::GET, String::new()),
    };
    let uri = format!("http://{}/pay", served.address);
    let request = Request::builder().method(method).uri(uri).body(body).unwrap();
    let saw = client.call(request).await;
    Seen {
        effects: served.operation.effects.load(Relaxed),
        requests: served.hops.iter().map(|hop| hop.requests.load(Relaxed)).collect(),
        failures: client.failures(),
        retries: client.retries(),
        saw,
    }
}

/// Moves the clock with the work that is done, and not with the time that it takes.
///
/// A paused clock would advance by itself whenever all tasks wait for a socket. It does not while
/// this future has a turn of its own. A busy machine therefore ends no attempt early.
async fn tick() {
    loop {
        for _ in 0..50 {
            yield_now().await;
        }
        advance(Duration::from_millis(5)).await;
    }
}

/// Makes the calls of all cells.
async fn observe_all() -> Vec<(usize, By, Seen)> {
    let places = Arc::new(Semaphore::new(32));
    let mut calls = JoinSet::new();
    for (number, row) in ROWS.iter().enumerate() {
        for by in row.by {
            let places = places.clone();
            calls.spawn(async move {
                let _place = places.acquire().await.unwrap();
                (number, *by, observe(row, *by).await)
            });
        }
    }
    tokio::select! {
        seen = calls.join_all() => seen,
        () = tick() => unreachable!(),
    }
}

const HEADING: &str = "\
| server | what happens | request | client | effects | requests | failures | retries \
| the caller saw | why |
|---|---|---|---|---|---|---|---|---|---|";

#[tokio::test(start_paused = true)]
async fn each_cell_is_as_the_table_says() {
    let mut seen = observe_all().await;
    seen.sort_by_key(|(number, by, _)| (*number, *by));
    let (mut table, mut wrong) = (String::new(), String::new());
    for (number, by, seen) in seen {
        let row = &ROWS[number];
        let cell = format!("| {} | {} | {} | {by:?} |", row.server, row.case, row.asked);
        writeln!(table, "{cell} {seen} | {} |", row.why).unwrap();
        if seen != row.expected() {
            writeln!(wrong, "{cell} {seen} |\n    and not {} |", row.expected()).unwrap();
        }
    }
    println!("\n{HEADING}\n{table}");
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn the_table_has_each_post_with_a_key_once() {
    for server in Server::ALL {
        for (case, by) in Case::ALL.into_iter().flat_map(|case| By::ALL.map(|by| (case, by))) {
            let is_cell =
                |row: &&Row| row.server == server && row.case == case && row.by.contains(&by);
            let rows = ROWS.iter().filter(is_cell).filter(|row| row.asked == Asked::Keyed);
            assert_eq!(rows.count(), 1, "{server}, {case}, {by:?}");
        }
    }
}

#[test]
fn no_guard_lets_an_operation_act_twice() {
    let guarded = [Server::Guard, Server::ProxyToGuard, Server::GuardedProxy];
    for row in ROWS.iter().filter(|row| guarded.contains(&row.server)) {
        let once = row.expected().effects <= 1;
        assert!(once || row.asked == Asked::Get, "{}, {}", row.server, row.case);
    }
}
