//! The run of all checks on one service.

use std::{
    fmt,
    future::{Ready, ready},
};

use tower_service::Service;

use super::{
    bench::Bench,
    declared::{Contract, Inner},
    rejecting::rejects,
    rule::Rule,
};
use crate::{
    call::catch_panic::CatchPanic,
    testing::{
        panics::panic_message,
        report::{CheckOutcome, Finding, Report},
        task::finish_now,
    },
};

impl<Req, Res, E> Contract<Req, Res, E> {
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
                let outcome = match self.not_applicable(rule) {
                    Some(why) => CheckOutcome::NotApplicable(why.to_owned()),
                    None => catch_panic(bench.check(rule)).await.into(),
                };
                bench.pass_time().await;
                findings.push(of_rule(rule, over, outcome));
            }
        }
        for (sentence, check) in &self.own {
            findings.push(Finding::new(sentence, catch_panic(async { check() }).await));
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
    ///     .check_rejecting(|inner| Closed(inner))
    ///     .assert();
    /// ```
    pub fn check_rejecting<S, Make>(&self, mut make: Make) -> Report
    where
        Make: FnMut(Inner<Res, E>) -> S,
        S: Service<Req>,
        Res: 'static,
        E: 'static,
    {
        let mut findings = Vec::new();
        for rule in Rule::REJECTING {
            for (over, slots) in INNERS {
                let outcome = match self.not_applicable(rule) {
                    Some(why) => CheckOutcome::NotApplicable(why.to_owned()),
                    None => {
                        let check = async { rejects(self, &mut make, rule, slots) };
                        finish_now(catch_panic(check)).into()
                    }
                };
                findings.push(of_rule(rule, over, outcome));
            }
        }
        Report { findings }
    }
}

/// The inner services, by their number of slots.
const INNERS: [(&str, usize); 2] = [("mock", usize::MAX), ("reserving", 1)];

fn of_rule(rule: Rule, over: &'static str, outcome: CheckOutcome) -> Finding {
    Finding { rule: Some(rule), name: rule.sentence(), over, outcome }
}

/// Turns a panic into the failure of the one check that it ends.
async fn catch_panic(check: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    CatchPanic { future: check }
        .await
        .unwrap_or_else(|payload| Err(format!("it panicked: {}", panic_message(&*payload))))
}
