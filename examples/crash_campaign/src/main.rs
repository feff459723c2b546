//! Kills workers and stores at the worst moments, and counts the executions of each request.
//!
//! ```sh
//! cargo run --release -p crash_campaign
//! cargo run --release -p crash_campaign -- --rounds 2 --store redb
//! cargo run --release -p crash_campaign -- stall
//! ```
//!
//! - `--rounds N`: the number of times that each fault happens. Default: `18`, the number needed
//!   for the full claim. With fewer rounds, the minimum numbers below are lowered and the output
//!   says so.
//! - `--store redb|redis|postgres`: runs on this store only, instead of all three.
//! - `--busy`: the machine is busy and lets leases of 300 ms lapse on its own. The effects of
//!   that alone (unknown without a fault, too few executions, too slow) are printed, but are no
//!   failure.
//! - `--seed N`: repeats the same waits and choices. The scheduling of the processes still
//!   differs. Default: `1`.
//!
//! With `stall`, nothing is killed. For 8 s each, the table of PostgreSQL and then one record are
//! locked, while 64 callers send requests. The server must not get more than two backends for each
//! connection of the pool. Another key must be claimed within the timeout of a step.
//!
//! The campaign needs `kill`, and `redis-server` and PostgreSQL, which it starts itself on
//! loopback. The machine must not be overloaded. If a process waits longer than a lease of 300 ms
//! for the processor, outcomes become unknown without a fault, which is reported as a failure.
//!
//! # The faults
//!
//! The driver starts workers, which run this same program. There are three, but only one for
//! redb, which locks its file. A worker wraps a handler in the idempotency layer. The handler
//! charges: it writes a line into a ledger outside the store and flushes it. The response is the
//! id of that charge, so a second execution would contradict the first. The driver sends requests
//! as clients do. It sends the same key and the same payload to other workers, or to restarted
//! ones, until the request is completed or its outcome is unknown.
//!
//! Each round uses leases of 300 ms, sends healthy requests at the same time, and does the
//! following:
//!
//! - A worker is killed (`kill -9`) at each of five points and at a random time: `before_claim`,
//!   `claimed_before_effect`, `between_effect_and_record`, `recorded_before_answer`,
//!   `in_renewal`.
//! - A worker is paused until its lease has ended, and then resumed, once right before it charges
//!   and once after it has charged but before it records. What it then writes must be rejected.
//! - The store is killed and restarted. With redb, each crash of the worker is one.
//! - The store is paused for longer than the layer's store timeout. With redb, its steps are
//!   delayed.
//!
//! There are two kinds of keys. For some keys an unknown outcome is kept, and they must stay
//! unknown. For the others the ledger is checked (`reconcile`), and a worker that resumes then
//! meets a newer fence.
//!
//! # The checks
//!
//! All checks use the driver's own records: the ledger, the responses that clients got, and at
//! the end the store's record of each key. No request may be executed twice. No two responses may
//! contradict each other. No key may still be in flight two leases after the last fault. Each
//! unknown outcome must come from a fault that hit that key. To show that the checks can fail, 20
//! rounds run without the idempotency layer.
//!
//! Only processes are killed. The operating system lives on, with the data that it holds in
//! memory for the disk. This is not power loss, and the campaign says nothing about power loss.
//!
//! The last line is for programs. The exit code is 1 if a check fails.

mod client;
mod dice;
mod driver;
mod faults;
mod faulty;
mod history;
mod ledger;
mod process;
mod protocol;
mod report;
mod stall;
mod stores;
mod worker;

use std::{env, error::Error, process::ExitCode, time::Duration};

use self::{
    report::{Account, Minimum, ROUNDS},
    stores::Kind,
    worker::Place,
};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

pub(crate) const LEASE: Duration = Duration::from_millis(300);

/// The layer's store timeout. After two such timeouts, a lease can still be renewed.
pub(crate) const STORE_TIMEOUT: Duration = Duration::from_millis(100);

const CONTROL_ROUNDS: u64 = 20;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let ended = match args.split_first() {
        Some((first, rest)) if first == "worker" => match Place::from_args(rest) {
            Some(place) => worker::run(place).map(|()| true),
            None => Err("a worker is started by the driver only".into()),
        },
        Some((first, [])) if first == "stall" => on_runtime(stall::run()),
        _ => Options::parse(&args).and_then(|options| on_runtime(campaign(&options))),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    rounds: u64,
    stores: Vec<Kind>,
    seed: u64,
    busy: bool,
}

impl Options {
    fn parse(args: &[String]) -> Outcome<Self> {
        let (busy, args): (Vec<_>, Vec<_>) =
            args.iter().cloned().partition(|argument| argument == "--busy");
        let busy = !busy.is_empty();
        let mut options = Self { rounds: ROUNDS, stores: Kind::STORES.to_vec(), seed: 1, busy };
        for option in args.chunks(2) {
            match option {
                [name, value] if name == "--rounds" => options.rounds = value.parse()?,
                [name, value] if name == "--seed" => options.seed = value.parse()?,
                [name, value] if name == "--store" => {
                    let stores = Kind::STORES.into_iter().filter(|kind| kind.name() == value);
                    options.stores = stores.collect();
                }
                _ => options.rounds = 0,
            }
        }
        match options.rounds > 0 && !options.stores.is_empty() {
            true => Ok(options),
            false => {
                Err("usage: [--rounds N] [--store redb|redis|postgres] [--seed N] [--busy]".into())
            }
        }
    }
}

/// Runs a campaign, which returns whether all checks passed.
fn on_runtime(campaign: impl Future<Output = Outcome<bool>>) -> Outcome<bool> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(campaign)
}

async fn campaign(options: &Options) -> Outcome<bool> {
    let Options { rounds, seed, .. } = *options;
    println!("{rounds} rounds, seed {seed}. Killed are processes: this is not power loss.");
    let minimum = Minimum::of(rounds);
    if rounds < ROUNDS {
        println!(
            "Fewer than {ROUNDS} rounds: less than the full claim, for which it takes {:?}. \
             Asked is {minimum:?}.",
            Minimum::FULL
        );
    }
    let mut good = true;
    let mut summary = Vec::new();
    for &kind in &options.stores {
        let evidence = driver::run(kind, rounds, seed).await?;
        let account = Account::of(&evidence);
        println!("\n{}", account.describe(kind));
        for failure in account.failures(minimum) {
            good = false;
            println!("  NOT AS IT HAS TO BE: {failure}");
        }
        for delay in account.delays(kind, minimum) {
            good &= options.busy;
            println!("  {}: {delay}", if options.busy { "late" } else { "NOT AS IT HAS TO BE" });
        }
        summary.push(format!("\"{}\":{}", kind.name(), account.to_json()));
    }

    let control = Account::of(&driver::run_control(CONTROL_ROUNDS, seed).await?);
    println!(
        "\nwithout a guard: {CONTROL_ROUNDS} rounds, executed twice {}",
        control.executed_twice
    );
    if control.executed_twice == 0 {
        good = false;
        println!("  NOT AS IT HAS TO BE: what is executed twice is not found");
    }
    summary.push(format!("\"control\":{}", control.control_to_json(CONTROL_ROUNDS)));
    println!("\nsummary {{{}}}", summary.join(","));
    Ok(good)
}
