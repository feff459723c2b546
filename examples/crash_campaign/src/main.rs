//! Kills and stops workers and stores at the worst moments, and then counts in a ledger how often each
//! request was executed.
//!
//! ```sh
//! cargo run --release -p crash_campaign
//! cargo run --release -p crash_campaign -- --rounds 2 --store redb
//! ```
//!
//! - `--rounds N`: how many times each fault happens; 18 if it is not said, which is enough for the full
//!   claim. With fewer the least numbers below are lowered, and the output says so.
//! - `--store redb|redis|postgres`: only this one, in place of all three.
//! - `--busy`: the machine has other things to do, and lets leases of 300 ms lapse by itself. What comes of
//!   that alone (unknown without a fault, too few executed, too slow) is printed, and is no failure.
//! - `--seed N`: for the same waits and choices again; what the scheduler makes of them differs.
//!
//! Needs `redis-server` and PostgreSQL, which it starts for itself on loopback, and `kill`. The machine must
//! not be overloaded: where a process waits longer than a lease of 300 ms for the processor, outcomes become
//! unknown without a fault, which is reported as a failure.
//!
//! # What happens
//!
//! The driver starts workers, which are this same program: three, or one for redb, which locks its file. A
//! worker guards a handler that charges, which means that it writes a line into a ledger outside the store
//! and flushes it. The answer is the id of that charge, so that a second execution would contradict the
//! first. The driver sends requests as clients do: with the same key and the same payload, to another
//! worker or one that was started anew, until they are done or nobody knows what became of them.
//!
//! In each round, with leases of 300 ms and with healthy requests at the same time:
//!
//! - a worker is killed (`kill -9`) at each of five points and at random: `before_claim`,
//!   `claimed_before_effect`, `between_effect_and_record`, `recorded_before_answer`, `in_renewal`;
//! - a worker is stopped until its lease is over, and goes on: right before it charges, and after that but
//!   before it records. What it then writes has to be refused;
//! - the store is killed and started again. With redb, each crash of the worker is one;
//! - the store is stopped for longer than the guard waits for it. With redb, its steps are held up.
//!
//! Keys are of two kinds. Of some an unknown outcome is left alone, and they have to stay unknown; of
//! others the ledger is asked (`reconcile`), and then a worker that comes back meets a newer fence.
//!
//! # What is shown
//!
//! Of everything, the driver's own account counts: the ledger, what clients were answered, and in the end
//! what the store has of each key. No request may be executed twice, no two answers may contradict each
//! other, no key may still be in flight two leases after the last fault, and each unknown outcome must
//! come from a fault that hit that key. To show that this could fail, 20 rounds go without a guard.
//!
//! What is killed here are processes. The system, and what it has in memory for the disk, lives on: that is
//! not power loss, and nothing here says anything about that.
//!
//! The last line is for programs. The exit code is 1 if anything is not as it has to be.

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

/// How long the guard waits for a step of the store: twice, and a lease can still be renewed.
pub(crate) const STORE_TIMEOUT: Duration = Duration::from_millis(100);

const CONTROL_ROUNDS: u64 = 20;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let ended = match args.split_first() {
        Some((first, rest)) if first == "worker" => match Place::from_args(rest) {
            Some(place) => worker::run(place).map(|()| true),
            None => Err("a worker is started by the driver only".into()),
        },
        _ => Options::parse(&args).and_then(|options| drive(&options)),
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

/// Whether all is as it has to be.
fn drive(options: &Options) -> Outcome<bool> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(campaign(options))
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
