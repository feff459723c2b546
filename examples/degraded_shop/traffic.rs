//! The visitors of the shop, and the pages that they get.

use std::time::Duration;

use buttress::BoxError;
use tokio::{
    task::JoinSet,
    time::{Instant, interval, timeout},
};

use crate::{
    script::Phase,
    servers::{Server, Servers},
    storefront::{Page, Storefront},
};

/// The time between two visitors, who do not wait for each other.
const EVERY: Duration = Duration::from_millis(40);

/// One visitor in twelve pays. With more, the losses would exceed the budget of retries.
const PAYS: u64 = 12;

/// The time after which a visitor leaves.
const PATIENCE: Duration = Duration::from_secs(2);

/// The results of the visitors of one storefront.
pub(crate) struct Run {
    /// The tallies of [`Phase::ALL`], by the phase in which a visitor came.
    phases: [Tally; Phase::ALL.len()],
    /// The charges that the payment server made, and the customers with more than one.
    pub(crate) charges: u64,
    pub(crate) charged_twice: u64,
    /// The number of requests for recommendations while they were switched off, without those of
    /// calls that had begun before.
    pub(crate) calls_while_off: u64,
    /// The return of the shop that was killed, and of the one that hung.
    pub(crate) back: [Option<Back>; 2],
}

/// The first request to a shop whose fault has ended.
#[derive(Clone, Copy)]
pub(crate) struct Back {
    pub(crate) after: Duration,
    /// The number of checks before it.
    pub(crate) checks: u64,
}

/// The counts of a phase or of a run.
#[derive(Clone, Default)]
pub(crate) struct Tally {
    pub(crate) pages: u64,
    pub(crate) pages_ok: u64,
    /// The number of pages with old rates, which are also ok, and the age of the oldest ones.
    pub(crate) stale: u64,
    pub(crate) oldest: Duration,
    /// The number of pages without recommendations, which are also ok.
    pub(crate) without_recommendations: u64,
    pub(crate) customers: u64,
    /// The number of customers who got a receipt.
    pub(crate) receipts: u64,
    /// The time that each visitor waited for a page, with or without success.
    waits: Vec<Duration>,
}

/// Sends visitors to a storefront while the script runs.
pub(crate) async fn run(servers: Servers, storefront: impl Storefront) -> Result<Run, BoxError> {
    let mut visitors = JoinSet::new();
    let mut next = interval(EVERY);
    let mut customer = 0;
    let mut calls_while_off = 0;
    let mut back = [None; 2];
    for (index, phase) in Phase::ALL.into_iter().enumerate() {
        phase.begin(&servers, &storefront).await?;
        next.tick().await;
        let mut returning = Returning::begin(phase, &servers);
        let visits = phase.lasts().div_duration_f32(EVERY) as u64;
        let mut recommendations = 0;
        for visitor in 0..visits {
            if visitor == visits / 2 {
                recommendations = servers.recommendations.requests();
            }
            visitors.spawn(visit(storefront.clone(), index));
            if visitor % PAYS == 0 {
                customer += 1;
                visitors.spawn(pay(storefront.clone(), customer, index));
            }
            next.tick().await;
            if let Some(returning) = &mut returning {
                returning.look();
            }
        }
        match phase {
            Phase::RecommendationsOff => {
                calls_while_off = servers.recommendations.requests() - recommendations;
            }
            Phase::ShopHangs => back[0] = returning.and_then(|shop| shop.back),
            Phase::ResponsesLost => back[1] = returning.and_then(|shop| shop.back),
            _ => {}
        }
    }
    let mut phases: [Tally; Phase::ALL.len()] = Default::default();
    while let Some(seen) = visitors.join_next().await {
        let (index, tally) = seen?;
        phases[index].add(&tally);
    }
    let (charges, charged_twice) = servers.charges();
    Ok(Run { phases, charges, charged_twice, calls_while_off, back })
}

async fn visit(storefront: impl Storefront, phase: usize) -> (usize, Tally) {
    let came = Instant::now();
    let page = timeout(PATIENCE, storefront.page()).await;
    let mut tally = Tally { pages: 1, waits: vec![came.elapsed()], ..Tally::default() };
    if let Ok(Ok(Page { rates_age, has_recommendations })) = page {
        tally.pages_ok = 1;
        tally.stale = u64::from(rates_age.is_some());
        tally.oldest = rates_age.unwrap_or_default();
        tally.without_recommendations = u64::from(!has_recommendations);
    }
    (phase, tally)
}

async fn pay(storefront: impl Storefront, customer: u64, phase: usize) -> (usize, Tally) {
    let paid = timeout(PATIENCE, storefront.pay(customer)).await;
    let receipts = u64::from(matches!(paid, Ok(Ok(()))));
    (phase, Tally { customers: 1, receipts, ..Tally::default() })
}

/// A shop whose fault has ended, until it gets a request.
struct Returning<'a> {
    shop: &'a Server,
    since: Instant,
    requests: u64,
    checks: u64,
    back: Option<Back>,
}

impl<'a> Returning<'a> {
    fn begin(phase: Phase, servers: &'a Servers) -> Option<Self> {
        let shop = match phase {
            Phase::ShopHangs => &servers.shops[0],
            Phase::ResponsesLost => &servers.shops[1],
            _ => return None,
        };
        let (requests, checks) = (shop.requests(), shop.checks());
        Some(Self { shop, since: Instant::now(), requests, checks, back: None })
    }

    fn look(&mut self) {
        if self.back.is_none() && self.shop.requests() > self.requests {
            let checks = self.shop.checks() - self.checks;
            self.back = Some(Back { after: self.since.elapsed(), checks });
        }
    }
}

impl Run {
    /// Returns the tally of one phase.
    pub(crate) fn during(&self, phase: Phase) -> &Tally {
        &self.phases[phase as usize]
    }

    /// Returns the tally of all phases.
    pub(crate) fn total(&self) -> Tally {
        let mut total = Tally::default();
        self.phases.iter().for_each(|phase| total.add(phase));
        total
    }

    /// Returns the members of a JSON object.
    pub(crate) fn json(&self) -> String {
        let total = self.total();
        format!(
            r#""pages":{},"pages_ok":{},"p99_ms":{},"charges":{},"charged_twice":{}"#,
            total.pages,
            total.pages_ok,
            total.waited(99),
            self.charges,
            self.charged_twice,
        )
    }
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.pages += other.pages;
        self.pages_ok += other.pages_ok;
        self.stale += other.stale;
        self.oldest = self.oldest.max(other.oldest);
        self.without_recommendations += other.without_recommendations;
        self.customers += other.customers;
        self.receipts += other.receipts;
        self.waits.extend(&other.waits);
    }

    /// Returns the number of visitors who got no page in time.
    pub(crate) fn failed(&self) -> u64 {
        self.pages - self.pages_ok
    }

    /// Returns a percentile of the waits in milliseconds.
    pub(crate) fn waited(&self, percent: usize) -> u128 {
        let mut waits = self.waits.clone();
        waits.sort_unstable();
        let rank = (waits.len() * percent).div_ceil(100);
        waits.get(rank.saturating_sub(1)).map_or(0, Duration::as_millis)
    }
}
