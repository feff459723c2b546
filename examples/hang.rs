//! Shows when a circuit breaker sees a dependency that hangs, and that callers in a hurry do not
//! open the breaker of a healthy one.
//!
//! ```sh
//! cargo run --example hang
//! ```
//!
//! A dependency responds in 20 ms for half a minute, and then never again. Its callers call it
//! fifty times a second. Each leaves when its own time is over, after 300 ms to 5 s. The stack has
//! an attempt timeout of 2 s, for which most callers do not wait, and a total timeout of 5 s or
//! 1 s. The breaker opens all the same, because nobody has a response for 10 s although the calls
//! ran longer than responses took.
//!
//! Other callers are in a hurry, but the dependency is only slow. While somebody has a response, or
//! while the calls are shorter than responses are, the callers say nothing about the dependency.
//!
//! The clock is paused, so it takes no time. The last line of the output is for programs. For each
//! case it has the number of calls, how many attempts hung before the breaker opened, and after how
//! many milliseconds of the hang it opened, or that it did not.

use std::{
    fmt::Write,
    future::pending,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use buttress::{
    BoxError, Deadline, Stack, circuit_breaker::CircuitBreakerLayer, retry::ReplayClones,
};
use tokio::time::{Instant, sleep, timeout};
use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// The time at which the dependency hangs, if it does.
const HANGS_AT: Duration = Duration::from_secs(30);
/// The time after which nothing more is expected.
const END: Duration = Duration::from_secs(90);

/// Callers who wait for as long as it takes.
const PATIENT: Duration = Duration::from_secs(20);

/// A dependency and its callers.
struct Case {
    name: &'static str,
    responds_in: Duration,
    hangs: bool,
    /// The attempt timeout and the total timeout of the stack.
    attempt: Duration,
    total: Duration,
    /// Calls per second, and the time that each caller has.
    callers: &'static [(u32, Duration)],
}

/// A dependency that hangs, in front of it a stack with the timeouts of a standard one.
const HUNG: Case = Case {
    name: "",
    responds_in: Duration::from_millis(20),
    hangs: true,
    attempt: Duration::from_secs(2),
    total: Duration::from_secs(5),
    callers: &[],
};

/// In front of a slow dependency, the timeouts are longer.
const HEALTHY: Case =
    Case { hangs: false, attempt: Duration::from_secs(10), total: Duration::from_secs(30), ..HUNG };

/// Fifty calls a second, each with this much time.
const IN_300_MS: &[(u32, Duration)] = &[(50, Duration::from_millis(300))];
const IN_1_S: &[(u32, Duration)] = &[(50, SECOND)];
const IN_1500_MS: &[(u32, Duration)] = &[(50, Duration::from_millis(1_500))];
const IN_5_S: &[(u32, Duration)] = &[(50, Duration::from_secs(5))];

const HURRIED: &[(u32, Duration)] =
    &[(50, MS), (50, Duration::from_millis(5)), (50, Duration::from_millis(50))];

const CASES: [Case; 12] = [
    Case { name: "hang_300ms", callers: IN_300_MS, ..HUNG },
    Case { name: "hang_1s", callers: IN_1_S, ..HUNG },
    Case { name: "hang_1500ms", callers: IN_1500_MS, ..HUNG },
    Case { name: "hang_5s", callers: IN_5_S, ..HUNG },
    Case { name: "hang_300ms_total_1s", total: SECOND, callers: IN_300_MS, ..HUNG },
    Case { name: "hang_1s_total_1s", total: SECOND, callers: IN_1_S, ..HUNG },
    Case { name: "hang_1500ms_total_1s", total: SECOND, callers: IN_1500_MS, ..HUNG },
    Case { name: "hang_5s_total_1s", total: SECOND, callers: IN_5_S, ..HUNG },
    Case { name: "healthy_20ms", callers: HURRIED, ..HEALTHY },
    Case {
        name: "healthy_200ms",
        responds_in: Duration::from_millis(200),
        callers: HURRIED,
        ..HEALTHY
    },
    Case { name: "healthy_3s", responds_in: Duration::from_secs(3), callers: HURRIED, ..HEALTHY },
    Case {
        name: "healthy_3s_left_after_2200ms",
        responds_in: Duration::from_secs(3),
        callers: &[(20, Duration::from_millis(2_200)), (1, PATIENT)],
        ..HEALTHY
    },
];

/// The result of a case.
struct Report {
    calls: u64,
    hung_before_open: u64,
    opened_after: Option<Duration>,
}

impl Case {
    async fn run(&self) -> Result<Report, BoxError> {
        let (began, hung) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let (responds_in, hangs, counted) = (self.responds_in, self.hangs, Arc::clone(&hung));
        let dependency = service_fn(move |(): ()| {
            let counted = Arc::clone(&counted);
            async move {
                if hangs && began.elapsed() >= HANGS_AT {
                    counted.fetch_add(1, Ordering::Relaxed);
                    pending::<()>().await;
                }
                sleep(responds_in).await;
                Ok::<_, io::Error>(())
            }
        });

        let breaker = CircuitBreakerLayer::new();
        let handle = breaker.handle();
        let stack = Stack::standard(ReplayClones).circuit_breaker(breaker);
        let stack = stack.attempt_timeout(self.attempt).total_timeout(self.total);
        let client = BoxCloneSyncService::new(stack.service(dependency));

        let calls = Arc::new(AtomicU64::new(0));
        let mut tasks = Vec::new();
        for &(per_second, time) in self.callers {
            let (client, calls) = (client.clone(), Arc::clone(&calls));
            tasks.push(tokio::spawn(async move {
                loop {
                    calls.fetch_add(1, Ordering::Relaxed);
                    let call = client.clone().oneshot(());
                    // The caller's time, as it comes with a request of its own.
                    tokio::spawn(Deadline::scope(Deadline::after(time), call));
                    sleep(SECOND / per_second).await;
                }
            }));
        }
        let mut watch = handle.watch();
        let opened = timeout(END, watch.changed()).await.is_ok();
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
        let since_hang = began.elapsed().saturating_sub(HANGS_AT);
        Ok(Report {
            calls: calls.load(Ordering::Relaxed),
            hung_before_open: hung.load(Ordering::Relaxed),
            opened_after: opened.then_some(since_hang),
        })
    }
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), BoxError> {
    let mut summary = String::new();
    for case in CASES {
        let Report { calls, hung_before_open, opened_after } = case.run().await?;
        // Within two windows.
        let in_time = opened_after.is_none_or(|after| after <= SECOND * 20);
        if opened_after.is_some() != case.hangs || !in_time {
            return Err(format!("{}: opened after {opened_after:?}", case.name).into());
        }
        let (text, json) = match opened_after {
            Some(after) => {
                let millis = after.as_millis();
                let text = format!("opened {after:.1?} after the hang");
                (text, format!(r#""opened_after_ms":{millis}"#))
            }
            None => ("stayed closed".to_owned(), r#""opened":0"#.to_owned()),
        };
        println!("{:<28} {text}; {calls} calls, {hung_before_open} hung before", case.name);
        let comma = if summary.is_empty() { "" } else { "," };
        write!(
            summary,
            r#"{comma}"{}":{{"calls":{calls},"hung_before_open":{hung_before_open},{json}}}"#,
            case.name
        )?;
    }
    println!("summary {{{summary}}}");
    Ok(())
}
