//! Every builder: an invalid value is an error whose knob is the name of the setter, and each end of
//! a range that is valid can be built.
//!
//! A table has a row for each setter. The setters are read from the source, so that a new one without
//! a row fails. So does a knob that is neither a setter nor a parameter of a constructor.

use std::{collections::BTreeSet, time::Duration};

use buttress::{ConfigError, timeout::TimeoutLayer};

const NS: Duration = Duration::from_nanos(1);
const MAX: Duration = Duration::MAX;
const ZERO: Duration = Duration::ZERO;

/// The errors of one setter, or of one parameter of a constructor.
struct Row {
    knob: &'static str,
    rejected: Vec<Option<ConfigError>>,
    accepted: Vec<Option<ConfigError>>,
}

/// What `build` said to invalid values of a knob, and to valid ones.
fn row(
    knob: &'static str,
    rejected: impl Into<Vec<Option<ConfigError>>>,
    accepted: impl Into<Vec<Option<ConfigError>>>,
) -> Row {
    Row { knob, rejected: rejected.into(), accepted: accepted.into() }
}

/// A setter that takes every value.
fn any(setter: &'static str, built: Option<ConfigError>) -> Row {
    row(setter, [], [built])
}

/// Checks the rows of a builder, which stands in `source`, and that no setter is without one.
#[track_caller]
fn check(source: &str, builder: &str, parameters: &[&str], rows: &[Row]) {
    for Row { knob, rejected, accepted } in rows {
        for (number, error) in rejected.iter().enumerate() {
            let error =
                error.as_ref().unwrap_or_else(|| panic!("{builder}, {knob}: {number} was taken"));
            assert_eq!(error.knob(), *knob, "{builder}: {error}");
            assert!(!error.rule().is_empty() && !error.value().is_empty(), "{builder}: {error}");
        }
        for (number, error) in accepted.iter().enumerate() {
            assert_eq!(*error, None, "{builder}, {knob}: {number} was rejected");
        }
    }
    let mut named: BTreeSet<&str> = setters(source, builder).collect();
    assert!(!named.is_empty(), "{builder} has no setters, or they were not found");
    named.extend(parameters);
    assert_eq!(rows.iter().map(|row| row.knob).collect::<BTreeSet<_>>(), named, "{builder}");
}

/// The methods of a builder that take it, but not `build`.
fn setters<'a>(source: &'a str, builder: &'a str) -> impl Iterator<Item = &'a str> {
    let blocks = source.split("\nimpl").skip(1).filter(move |block| {
        let head = block.lines().next().unwrap_or_default();
        !head.contains(" for ") && head.contains(&format!(" {builder}"))
    });
    let bodies = blocks.map(|block| block.split("\n}").next().unwrap_or_default());
    bodies
        .flat_map(|body| body.split("    pub fn ").skip(1))
        .filter(|method| {
            let head = &method[..method.find(')').unwrap_or(method.len())];
            head.contains("(self") || head.contains("(mut self") || head.contains(" self,")
        })
        .map(|method| &method[..method.find(['(', '<']).unwrap_or_default()])
        .filter(|setter| *setter != "build")
}

#[test]
fn a_timeout_rejects_what_cannot_work_by_the_name_of_the_setter() {
    let builder = TimeoutLayer::builder;
    check(
        include_str!("../src/timeout/layer.rs"),
        "TimeoutBuilder",
        &["limit"],
        &[
            row(
                "limit",
                [builder(ZERO).build().err()],
                [NS, MAX].map(|v| builder(v).build().err()),
            ),
            any("name", builder(NS).name("orders").build().err()),
        ],
    );
    let per_request = TimeoutLayer::builder_fn(|_: &()| ZERO).name("orders");
    assert!(per_request.build().is_ok());
}
