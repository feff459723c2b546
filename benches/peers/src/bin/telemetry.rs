//! Compares buttress with other crates, each with its metrics turned on, in one run.
//!
//! `cargo run --release -p peers --features telemetry --bin telemetry` prints the same rows as
//! `cargo run --release -p peers`. Our side is a stack in a registry. tower-resilience has the
//! feature `metrics`, with the Prometheus recorder. seatbelt has its OpenTelemetry metrics, with
//! the SDK. `buttress, not registered` is our own stack without a registry.
//!
//! A row of a stack holds 100 calls in its window of time.

#[path = "../alloc.rs"]
#[expect(dead_code, reason = "the other benchmark counts bytes as well")]
mod alloc;
#[path = "../backend.rs"]
mod backend;
#[path = "../measure.rs"]
#[expect(dead_code, reason = "the other benchmark measures more than this")]
mod measure;
#[path = "../ours.rs"]
#[expect(dead_code, reason = "the other benchmark has more cases")]
mod ours;
#[path = "../peers/mod.rs"]
#[expect(dead_code, reason = "the other benchmark has more cases")]
mod peers;
#[path = "../report.rs"]
#[expect(dead_code, reason = "the other benchmark prints more")]
mod report;

use buttress::telemetry::Registry;

use measure::Harness;
use peers::{seatbelt, telemetry, tower_resilience};
use report::Report;

const QUIET: u64 = 100;

fn main() {
    telemetry::install_recorder();
    let h = &Harness::new();
    let registry = Registry::new();
    let registered = || {
        let registry = registry.clone();
        move || ours::stack4_registered(Some(&registry))
    };
    let mut report = Report::default();
    report.case(
        "stack4_registered",
        h.in_window(QUIET, registered()),
        vec![
            ("not registered", h.in_window(QUIET, || ours::stack4_registered(None))),
            ("tower-resilience", h.in_window(QUIET, tower_resilience::stack4_time_window)),
            ("seatbelt", h.in_window(QUIET, seatbelt::stack3_time_window)),
        ],
    );
    report.case(
        "contended_stack4_registered",
        h.contended(registered()),
        vec![
            ("not registered", h.contended(|| ours::stack4_registered(None))),
            ("tower-resilience", h.contended(tower_resilience::stack4_time_window)),
            ("seatbelt", h.contended(seatbelt::stack3_time_window)),
        ],
    );
    report.table();
    let calls = registry.gather().len();
    println!("telemetry {{\"families\":{calls}}}");
}
