//! Shows the pages of a shop while its servers fail, one after the other.
//!
//! ```sh
//! cargo run --example degraded_shop
//! ```
//!
//! A page needs one of three shop servers, a server of exchange rates and one of recommendations.
//! A payment server charges the customers. All of them listen on sockets of this machine, and a
//! script makes them fail. The servers count what really happened.
//!
//! Two storefronts run at the same time, each with servers of its own: one with a bare client, and
//! one with the layers of this crate. The example fails if the second one breaks a promise, such as
//! that each customer is charged once. It takes 17 s.
//!
//! These faults are real. The example `chaos` injects faults with a layer next to the client.

mod bare;
mod protected;
mod script;
mod servers;
mod storefront;
mod traffic;

use std::fmt::Display;

use buttress::BoxError;

use self::{bare::Bare, protected::Protected, script::Phase, servers::Servers, traffic::Run};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let servers = Servers::start().await?;
    let storefront = Bare::new((&servers).into());
    let bare = traffic::run(servers, storefront);
    let servers = Servers::start().await?;
    let storefront = Protected::new((&servers).into())?;
    let buttress = traffic::run(servers, storefront);
    let (bare, buttress) = tokio::try_join!(bare, buttress)?;

    print_table(&[("bare", &bare), ("buttress", &buttress)]);
    println!(
        "\nsummary {{\"bare\":{{{}}},\"buttress\":{{{}}}}}",
        bare.json(),
        protected::json(&buttress),
    );

    let total = bare.total();
    if bare.charged_twice == 0 || total.pages_ok == total.pages {
        return Err("the servers did not fail".into());
    }
    protected::broken_promise(&buttress).map_or(Ok(()), |broken| Err(broken.into()))
}

/// Prints a column for each run.
fn print_table(runs: &[(&str, &Run)]) {
    let row = |what: &str, cell: &dyn Fn(&Run) -> Box<dyn Display>| {
        print!("{what:<40}");
        for (_, run) in runs {
            print!(" {:>9}", cell(run).to_string());
        }
        println!();
    };
    print!("{:<40}", "");
    for (name, _) in runs {
        print!(" {name:>9}");
    }
    println!();
    row("pages", &|run| Box::new(run.total().pages));
    row("  shown", &|run| Box::new(run.total().pages_ok));
    row("    with old rates", &|run| Box::new(run.total().stale));
    row("    without recommendations", &|run| Box::new(run.total().without_recommendations));
    row("  not shown", &|run| Box::new(run.total().failed()));
    for phase in Phase::ALL {
        row(&format!("    {}", phase.name()), &|run| Box::new(run.during(phase).failed()));
    }
    row("visitors waited, p50 ms", &|run| Box::new(run.total().waited(50)));
    row("visitors waited, p99 ms", &|run| Box::new(run.total().waited(99)));
    row("age of the oldest rates, ms", &|run| Box::new(run.total().oldest.as_millis()));
    row("recommendations called while off", &|run| Box::new(run.calls_while_off));
    for (index, shop) in ["killed", "hung"].into_iter().enumerate() {
        let back = |run: &Run| run.back[index].map(|back| back.after.as_millis().to_string());
        row(&format!("the {shop} shop is used again after, ms"), &|run| {
            Box::new(back(run).unwrap_or_else(|| "never".to_owned()))
        });
    }
    row("customers", &|run| Box::new(run.total().customers));
    row("  with a receipt", &|run| Box::new(run.total().receipts));
    row("  charged twice", &|run| Box::new(run.charged_twice));
    row("charges", &|run| Box::new(run.charges));
}
