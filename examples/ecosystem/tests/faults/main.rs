//! Tests of whose fault an error is, with real errors of hyper, h2, reqwest and tonic.
//!
//! The tables are in `docs/http.md`. Kinds that are private to a library are recognised by their
//! text, so these tests fail if a new version of the library changes it.

mod breaker;
mod broken_body;
mod draining;
mod h2;
mod hyper;
mod peer;
mod reqwest;
mod tonic;

use std::collections::BTreeMap;

use buttress::{BoxError, Classify, Fault, Outcome, RetryHint, http::HttpClassifier};
use http::Response;

/// The kinds of errors, each with the outcome and the hint of an error of that kind.
type Rows = Vec<(&'static str, Judged)>;

/// The outcome of an error, when its request is sent again, and its cause, in the words of the
/// tables.
type Judged = (&'static str, &'static str, &'static str);

fn judged(error: impl Into<BoxError>) -> Judged {
    judged_by_ref(&error.into())
}

fn judged_by_ref(error: &BoxError) -> Judged {
    let classifier = HttpClassifier::new();
    let result: Result<&Response<()>, _> = Err(error);
    let hint = classifier.hint(result);
    let unsent = matches!(hint, RetryHint::Unsent | RetryHint::Unprocessed);
    let (outcome, retried) = match classifier.classify(result) {
        Outcome::Ignored if unsent => ("ignored", "at once"),
        Outcome::Ignored => ("ignored", "never"),
        Outcome::Failure(Fault::Transient) if unsent => ("transient", "always"),
        Outcome::Failure(Fault::Transient) => ("transient", "if safe"),
        Outcome::Failure(Fault::TimedOut) if unsent => ("timed out", "always"),
        Outcome::Failure(Fault::TimedOut) => ("timed out", "if safe"),
        Outcome::Failure(Fault::Permanent) => ("permanent", "never"),
        other => panic!("no error has the outcome {other:?}"),
    };
    (outcome, retried, classifier.error_type(result).unwrap_or(""))
}

/// Returns the rows of the tables of the guide.
fn documented() -> BTreeMap<&'static str, Judged> {
    let guide = include_str!("../../../../docs/http.md");
    let section = guide.split("\n## ").find(|section| section.starts_with("Whose fault"));
    let rows = section.unwrap().lines().filter(|line| line.starts_with('|'));
    let rows = rows.filter_map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let [_, kind, _whose, outcome, retried, cause, _why, _] = cells[..] else {
            panic!("{row}");
        };
        let heading = kind.starts_with("---") || outcome == "outcome";
        (!heading && outcome != "by its cause").then_some((kind, (outcome, retried, cause)))
    });
    rows.collect()
}

#[tokio::test]
async fn each_kind_of_error_is_classified_as_the_table_says() {
    let mut made = hyper::rows().await;
    made.extend(h2::rows().await);
    made.extend(reqwest::rows().await);
    made.extend(tonic::rows().await);
    let mut documented = documented();
    let mut wrong = String::new();
    for (kind, judged) in made {
        let expected = documented.remove(kind);
        if expected != Some(judged) {
            wrong += &format!("\n{kind}: {judged:?}, but the table says {expected:?}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(documented.is_empty(), "without a test: {documented:?}");
}
