//! The methods that run the checks on one service.

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
    /// Checks every rule of [`Rule::GENERAL`], without a runtime and without letting time pass.
    ///
    /// `make` wraps an inner service in the service under test. It is also called on a separate
    /// thread that has no runtime.
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

    /// Checks every rule of [`Rule::GENERAL`], and lets time pass while the service waits.
    ///
    /// `pass_time` lets a little time pass, for example by advancing a paused clock. A check
    /// calls it up to 256 times before it gives up. About 10 ms for each call is a good choice.
    /// It is also called between the rules, which renews the cooperative budget that tokio gives
    /// a task.
    ///
    /// `make` is the same as in [`check`](Self::check).
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

    /// Checks every rule of [`Rule::REJECTING`], on a service that rejects every call.
    ///
    /// `make` must return such a service and must keep it rejecting. For example, it takes the only
    /// permit of the service, or forces its circuit breaker open.
    ///
    /// # Example
    ///
    /// ```
    /// use std::{
    ///     future::{Ready, ready},
    ///     io,
    ///     task::{Context, Poll},
    /// };
    ///
    /// use buttress::testing::contract::Contract;
    /// use tower::Service;
    ///
    /// /// Rejects every call.
    /// struct Closed<S>(S);
    ///
    /// impl<S: Service<Req, Error = io::Error>, Req> Service<Req> for Closed<S> {
    ///     type Response = S::Response;
    ///     type Error = io::Error;
    ///     type Future = Ready<Result<S::Response, io::Error>>;
    ///
    ///     fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
    ///         Poll::Ready(Ok(()))
    ///     }
    ///
    ///     fn call(&mut self, _: Req) -> Self::Future {
    ///         ready(Err(io::Error::other("closed")))
    ///     }
    /// }
    ///
    /// Contract::new(|| "request", || "response", || io::Error::other("broken pipe"))
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

/// The names of the inner services, and their numbers of slots.
const INNERS: [(&str, usize); 2] = [("mock", usize::MAX), ("reserving", 1)];

fn of_rule(rule: Rule, over: &'static str, outcome: CheckOutcome) -> Finding {
    Finding { rule: Some(rule), name: rule.sentence(), over, outcome }
}

/// Turns a panic of a check into its failure.
async fn catch_panic(check: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    CatchPanic { future: check }
        .await
        .unwrap_or_else(|payload| Err(format!("it panicked: {}", panic_message(&*payload))))
}
