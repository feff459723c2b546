//! Tests that events reach the crate `log`, in a program without a subscriber of `tracing`.

use std::{io, sync::Mutex, time::Duration};

use buttress::{
    Stack,
    retry::{ReplayClones, RetryLayer},
};
use log::{Level, LevelFilter, Log, Metadata, Record};
use tower::{Layer, ServiceExt, service_fn};

/// The levels, targets and messages of the lines.
static LINES: Mutex<Vec<(Level, String, String)>> = Mutex::new(Vec::new());

struct Logger;

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = (record.level(), record.target().to_owned(), record.args().to_string());
        LINES.lock().unwrap().push(line);
    }

    fn flush(&self) {}
}

#[tokio::test(start_paused = true)]
async fn events_reach_the_crate_log() {
    log::set_logger(&Logger).unwrap();
    log::set_max_level(LevelFilter::Debug);
    let hangs = service_fn(|()| std::future::pending::<Result<(), buttress::Error<io::Error>>>());
    let retry = RetryLayer::builder(ReplayClones).retries(0).build().unwrap();
    let stack = Stack::new().name("orders").retry(retry).attempt_timeout(Duration::from_secs(1));
    for _ in 0..2 {
        assert!(stack.layer(hangs).oneshot(()).await.is_err());
    }
    let lines = LINES.lock().unwrap();
    let events = lines.iter().filter(|(level, target, _)| {
        // The spans are at `INFO`.
        target.starts_with("buttress::") && *level != Level::Info
    });
    let events: Vec<_> = events.map(|(level, _, line)| (*level, &line[..14])).collect();
    let [warn, debug] = [Level::Warn, Level::Debug];
    let of_a_call = |level| [(level, "call timed out"), (debug, "call not retri")];
    assert_eq!(events, [of_a_call(warn), of_a_call(debug)].concat());
}
