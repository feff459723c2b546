//! The contract of a tower service, as checks that run on any service.
//!
//! [`Contract`] is given a way to build the service under test over an inner service of the kit's own, and finds out
//! what it does to it: which instance it calls, what it reserves and when it lets go, whom it wakes. Each [`Rule`]
//! is checked on services built afresh, over two inner services. The *mock* is always free; the *reserving* one has
//! a single slot, which is what shows a permit hoarded.
//!
//! # The service under test
//!
//! - Give a layer that limits something a limit of one. What it leaks then shows at once.
//! - Build the layer inside the closure if it keeps a score: the checks make calls fail and panic.
//! - Over an inner service that is ready the service must become ready, and its calls succeed.
//! - Errors are recognised by their `Debug` text, which must contain the inner error's.
//!
//! # Time
//!
//! [`check`](Contract::check) needs no runtime. A service that arms a timer when its inner service is slow needs one
//! for that: there use [`check_with`](Contract::check_with), inside a runtime with a paused clock.
//!
//! # What it cannot check
//!
//! From outside nobody can see when the clock of a timeout starts, or whether user code runs under a lock. Such
//! rules are for tests of one's own, which [`also`](Contract::also) adds to the report.

mod checks;
mod report;
mod rule;

pub use self::report::{Finding, Report, Verdict};
pub use self::rule::Rule;

use std::fmt;
use std::future::{Ready, poll_fn, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use tower_service::Service;

use self::checks::Bench;
use super::task::finish_now;
use super::{Flaky, Reserving, panic_message};

/// The inner service of the checks.
pub type Inner<Res, E> = Reserving<Flaky<Res, E>>;

type Maker<T> = Arc<dyn Fn() -> T + Send + Sync>;
type OwnCheck = Box<dyn Fn() -> Result<(), String>>;

/// Checks services against the contract.
///
/// # Example
///
/// ```
/// use buttress::testing::contract::{Contract, Rule};
/// use tower::{Layer, limit::ConcurrencyLimitLayer};
///
/// let report = Contract::new(|| "request", || "response", || "error")
///     .check(|inner| ConcurrencyLimitLayer::new(1).layer(inner));
/// println!("{report}");
/// report.assert();
/// assert!(!report.broke(Rule::FreesOnDrop));
/// ```
///
/// With timers, on a paused clock:
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// use std::time::Duration;
///
/// use buttress::testing::contract::{Contract, Rule};
/// use tower::{BoxError, Layer, timeout::TimeoutLayer};
///
/// Contract::new(|| "request", || "response", || BoxError::from("error"))
///     .except(Rule::NeedsNoRuntime, "tower arms the timer in `call`")
///     .check_with(
///         |inner| TimeoutLayer::new(Duration::from_secs(1)).layer(inner),
///         || tokio::time::advance(Duration::from_millis(10)),
///     )
///     .await
///     .assert();
/// # }
/// ```
pub struct Contract<Req, Res, E> {
    request: Maker<Req>,
    response: Maker<Res>,
    error: Maker<E>,
    always_ready: bool,
    exceptions: Vec<(Rule, &'static str)>,
    own: Vec<(&'static str, OwnCheck)>,
}

impl<Req, Res, E> Contract<Req, Res, E> {
    /// Takes what makes a request, and the response and the error that the inner service answers it with.
    ///
    /// A layer that retries sees the error too, and is given the time that `check_with` passes to retry it.
    pub fn new(
        request: impl Fn() -> Req + Send + Sync + 'static,
        response: impl Fn() -> Res + Send + Sync + 'static,
        error: impl Fn() -> E + Send + Sync + 'static,
    ) -> Self {
        Self {
            request: Arc::new(request),
            response: Arc::new(response),
            error: Arc::new(error),
            always_ready: false,
            exceptions: Vec::new(),
            own: Vec::new(),
        }
    }

    /// Declares that the service says `Ready` whatever its inner service says, and waits in its future.
    #[must_use]
    pub const fn always_ready(mut self) -> Self {
        self.always_ready = true;
        self
    }

    /// Declares that the service does not keep a rule, and why that is right.
    #[must_use]
    pub fn except(mut self, rule: Rule, why: &'static str) -> Self {
        self.exceptions.push((rule, why));
        self
    }

    /// Adds a check of one's own to the report: a sentence, and what finds out.
    #[must_use]
    pub fn also(
        mut self,
        sentence: &'static str,
        check: impl Fn() -> Result<(), String> + 'static,
    ) -> Self {
        self.own.push((sentence, Box::new(check)));
        self
    }

    /// Checks every general rule, in no time at all.
    ///
    /// `make` builds the service under test. It also runs on a thread of its own, where there is no runtime.
    pub fn check<S, Make>(&self, make: Make) -> Report
    where
        Make: FnMut(Inner<Res, E>) -> S + Send,
        S: Service<Req> + Clone,
        S::Error: fmt::Debug,
        Res: Send + 'static,
        E: fmt::Debug + Send + 'static,
    {
        let no_time: fn() -> Ready<()> = || ready(());
        finish_now(self.check_with(make, no_time))
    }

    /// Checks every general rule. `pass_time` lets a little time pass whenever the service waits for some.
    ///
    /// Time passes up to 256 times before a check gives up, so ten milliseconds are about right. It passes between the
    /// rules as well, which renews the budget that tokio gives a task.
    pub async fn check_with<S, Make, Pass, Passing>(
        &self,
        mut make: Make,
        pass_time: Pass,
    ) -> Report
    where
        Make: FnMut(Inner<Res, E>) -> S + Send,
        S: Service<Req> + Clone,
        S::Error: fmt::Debug,
        Pass: FnMut() -> Passing,
        Passing: Future<Output = ()>,
        Res: Send + 'static,
        E: fmt::Debug + Send + 'static,
    {
        let mut bench = Bench::new(self, &mut make, pass_time);
        let mut findings = Vec::new();
        for rule in Rule::GENERAL {
            for (over, slots) in INNERS {
                bench.slots = slots;
                let verdict = match self.not_applicable(rule) {
                    Some(why) => Verdict::NotApplicable(why.to_owned()),
                    None => verdict(catch_panic(bench.check(rule)).await),
                };
                bench.pass_time().await;
                findings.push(Finding {
                    rule: Some(rule),
                    sentence: rule.sentence(),
                    over,
                    verdict,
                });
            }
        }
        for (sentence, check) in &self.own {
            findings.push(Finding {
                rule: None,
                sentence,
                over: "",
                verdict: verdict(catch_panic(async { check() }).await),
            });
        }
        Report { findings }
    }

    /// Checks the rules of refusing, on a service that refuses every call that `make`'s service is given.
    ///
    /// What makes it refuse (a permit taken elsewhere, a breaker forced open) is the closure's to arrange and to keep.
    ///
    /// # Example
    ///
    /// ```
    /// use buttress::testing::contract::Contract;
    /// use tower::BoxError;
    ///
    /// # #[derive(Clone)]
    /// # struct Closed<S>(S);
    /// # impl<S: tower::Service<Req>, Req> tower::Service<Req> for Closed<S> {
    /// #     type Response = S::Response;
    /// #     type Error = BoxError;
    /// #     type Future = std::future::Ready<Result<S::Response, BoxError>>;
    /// #     fn poll_ready(
    /// #         &mut self,
    /// #         _: &mut std::task::Context<'_>,
    /// #     ) -> std::task::Poll<Result<(), BoxError>> {
    /// #         std::task::Poll::Ready(Ok(()))
    /// #     }
    /// #     fn call(&mut self, _: Req) -> Self::Future {
    /// #         std::future::ready(Err("closed".into()))
    /// #     }
    /// # }
    /// Contract::new(|| "request", || "response", || BoxError::from("error"))
    ///     .check_refusing(|inner| Closed(inner))
    ///     .assert();
    /// ```
    pub fn check_refusing<S, Make>(&self, mut make: Make) -> Report
    where
        Make: FnMut(Inner<Res, E>) -> S,
        S: Service<Req>,
        Res: 'static,
        E: 'static,
    {
        let mut findings = Vec::new();
        for rule in Rule::REFUSING {
            for (over, slots) in INNERS {
                let verdict = match self.not_applicable(rule) {
                    Some(why) => Verdict::NotApplicable(why.to_owned()),
                    None => {
                        let check = async { checks::refuses(self, &mut make, rule, slots) };
                        verdict(finish_now(catch_panic(check)))
                    }
                };
                findings.push(Finding {
                    rule: Some(rule),
                    sentence: rule.sentence(),
                    over,
                    verdict,
                });
            }
        }
        Report { findings }
    }

    fn not_applicable(&self, rule: Rule) -> Option<&'static str> {
        let declared = self.exceptions.iter().find(|(except, _)| *except == rule);
        match declared {
            Some((_, why)) => Some(why),
            None if rule == Rule::WaitsEmptyHanded && !self.always_ready => {
                Some("it forwards readiness: it is not declared always_ready()")
            }
            None => None,
        }
    }

    /// A fresh inner service that answers well.
    fn inner(&self, slots: usize) -> Inner<Res, E>
    where
        Res: 'static,
        E: 'static,
    {
        let response = Arc::clone(&self.response);
        Reserving::new(Flaky::new([], move || Ok(response())), slots)
    }
}

impl<Req, Res, E> fmt::Debug for Contract<Req, Res, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contract")
            .field("always_ready", &self.always_ready)
            .field("exceptions", &self.exceptions)
            .finish_non_exhaustive()
    }
}

/// The inner services, by their number of slots.
const INNERS: [(&str, usize); 2] = [("mock", usize::MAX), ("reserving", 1)];

fn verdict(result: Result<(), String>) -> Verdict {
    match result {
        Ok(()) => Verdict::Passed,
        Err(why) => Verdict::Failed(why),
    }
}

/// Turns a panic into the failure of the one check that it ends.
async fn catch_panic(check: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let mut check = pin!(check);
    poll_fn(|cx| {
        catch_unwind(AssertUnwindSafe(|| check.as_mut().poll(cx))).unwrap_or_else(|payload| {
            Poll::Ready(Err(format!("it panicked: {}", panic_message(&*payload))))
        })
    })
    .await
}
