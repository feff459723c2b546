//! Tests of the contract, over the layers for HTTP.
#![cfg(feature = "http")]

#[macro_use]
mod layers;

use std::fmt;

use buttress::{
    CarryRejection, Error,
    testing::{
        CheckOutcome, Finding, Report,
        contract::{Contract, Inner},
    },
};
use http::{Request, Response};
use tower::{Layer, Service};

use self::layers::*;

type Failure = Error<fmt::Error>;
type Subject<E> = Inner<Response<String>, E>;

fn contract<E, B>(error: fn() -> E, body: fn() -> B) -> Contract<Request<B>, Response<String>, E>
where
    E: Send + 'static,
    B: 'static,
{
    Contract::new(
        move || Request::get("/").body(body()).unwrap(),
        || Response::new("two".into()),
        error,
    )
}

fn failing() -> Failure {
    Error::Service(fmt::Error)
}

async fn keeps_every_rule<E, B, L>(
    name: &str,
    error: fn() -> E,
    body: fn() -> B,
    make: impl Fn() -> Row<L> + Send + Sync,
) where
    E: fmt::Debug + Send + 'static,
    B: Send + 'static,
    L: Layer<Subject<E>, Service: Service<Request<B>, Error: fmt::Debug> + Clone>,
{
    let report = keeps_rules(name, contract(error, body), make).await;
    assert_keeps(name, &report);
    let passed = |finding: &&Finding| *finding.outcome() == CheckOutcome::Passed;
    let checks = report.findings().filter(passed).count();
    assert!(checks >= 24, "{name}: only {checks} checks");
}

fn rejects_by_the_rules<L>(name: &str, row: &Row<L>)
where
    L: Layer<Subject<Failure>, Service: Service<Request<String>, Error = Failure>>,
{
    for (obstacle, report) in rejects_by_rules(&contract(failing, String::new), row) {
        assert_keeps(&format!("{name}, {obstacle}"), &report);
    }
}

fn assert_keeps(name: &str, report: &Report) {
    let broken: Vec<String> = report.failures().map(ToString::to_string).collect();
    assert!(broken.is_empty(), "{name}:\n{}", broken.join("\n"));
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn every_layer_that_speaks_http_keeps_every_rule() {
    for_every!(http_layers, |name, make| {
        keeps_every_rule(name, failing, String::new, make).await;
    });
    let make = || {
        Row::new(layer_fn(|inner| {
            let bulkhead = one_at_once().build().unwrap();
            let stack = Stack::standard(ReplaySafe::new()).bulkhead(bulkhead).http();
            stack.service::<_, Request<String>, _>(inner)
        }))
        .always_ready()
    };
    keeps_every_rule("stack_standard_http_service", || fmt::Error, String::new, make).await;
}

#[test]
fn a_rejection_passes_through_what_speaks_http() {
    for_every!(http_layers, |name, make| rejects_by_the_rules(name, &make()));
    assert!(failing().rejection().is_none());
}
