//! Makes the same calls with the same instructions each time, for `.ci/gate.py` to count.
//!
//! ```sh
//! gate list              # prints the cases, one line each with kind and name
//! gate run <case> <n>    # makes n calls, for callgrind
//! gate facts <case>      # prints the allocations and clock reads of 1,000 calls, and sizes
//! ```
//!
//! The instructions of a call are the difference between a run of 2n calls and a run of n calls,
//! divided by n. This excludes the set-up. A runtime runs only in the cases whose layer spawns
//! tasks. The clock, the seeds of hash maps and the id of the process are [fixed](system).

mod cases;
mod measure;
mod services;
mod subscriber;
mod system;

use std::{env, process::ExitCode};

use cases::{CASES, Case, Kind};
use measure::Calls;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["list"] => list(),
        ["run", name, calls] => {
            let (Some(case), Ok(calls)) = (find(name), calls.parse()) else { return usage() };
            (case.run)(Calls { first: 0, counted: calls });
        }
        ["facts", name] => {
            let Some(case) = find(name) else { return usage() };
            facts(case);
        }
        _ => return usage(),
    }
    ExitCode::SUCCESS
}

fn find(name: &str) -> Option<&'static Case> {
    CASES.iter().find(|case| case.name == name)
}

fn list() {
    for case in CASES {
        let kind = match case.kind {
            Kind::Lone => "lone",
            Kind::Composite => "composite",
        };
        println!("{kind} {}", case.name);
    }
}

fn facts(case: &Case) {
    let facts = (case.run)(Calls { first: 1_000, counted: 1_000 });
    println!("allocations {}", facts.allocations);
    println!("clock_reads {}", facts.clock_reads);
    println!("future {}", facts.future);
    println!("response {}", facts.response);
}

fn usage() -> ExitCode {
    eprintln!("usage: gate list | gate run <case> <n> | gate facts <case>");
    ExitCode::FAILURE
}
