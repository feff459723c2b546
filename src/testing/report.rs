//! The report of a set of checks, of a service or of a store.

use std::fmt;

use super::contract::Rule;

/// The outcome of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// The check passed.
    Passed,
    /// The check failed, with the reason.
    Failed(String),
    /// The check does not apply, with the reason.
    NotApplicable(String),
}

impl From<Result<(), String>> for CheckOutcome {
    fn from(result: Result<(), String>) -> Self {
        result.map_or_else(Self::Failed, |()| Self::Passed)
    }
}

/// One check and its outcome.
#[derive(Clone, Debug)]
pub struct Finding {
    pub(super) rule: Option<Rule>,
    pub(super) name: &'static str,
    pub(super) over: &'static str,
    pub(super) outcome: CheckOutcome,
}

impl Finding {
    pub(super) fn new(name: &'static str, outcome: impl Into<CheckOutcome>) -> Self {
        Self { rule: None, name, over: "", outcome: outcome.into() }
    }

    /// Returns the name of the check.
    ///
    /// A rule of the contract is named by its [sentence](Rule::sentence), and a check of your own
    /// by the sentence given to [`also`](super::contract::Contract::also). The name of a store's
    /// check can be passed to [`check_one`](super::idempotency::check_one).
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the rule of the contract that was checked, or `None` for any other check.
    #[must_use]
    pub const fn rule(&self) -> Option<Rule> {
        self.rule
    }

    /// Returns the name of the inner service that a rule was checked with.
    ///
    /// It is `mock` or `reserving`, and an empty string for any other check.
    #[must_use]
    pub const fn over(&self) -> &'static str {
        self.over
    }

    /// Returns the outcome of the check.
    #[must_use]
    pub const fn outcome(&self) -> &CheckOutcome {
        &self.outcome
    }

    /// Returns the reason of the failure, or `None` if the check did not fail.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        match &self.outcome {
            CheckOutcome::Failed(why) => Some(why),
            _ => None,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, why) = match &self.outcome {
            CheckOutcome::Passed => ("passed", None),
            CheckOutcome::Failed(why) => ("FAILED", Some(why)),
            CheckOutcome::NotApplicable(why) => ("n/a", Some(why)),
        };
        write!(f, "{word:6} ")?;
        if !self.over.is_empty() {
            write!(f, "{:9} ", self.over)?;
        }
        f.write_str(self.name)?;
        why.map_or(Ok(()), |why| write!(f, "\n       {why}"))
    }
}

/// The findings of a set of checks, in order.
///
/// Call [`assert`](Self::assert) to fail the test if a check failed. `Display` prints all findings.
#[derive(Clone, Debug)]
#[must_use = "a report checks nothing until it is asserted"]
pub struct Report {
    pub(super) findings: Vec<Finding>,
}

impl Report {
    /// Returns all findings, in order.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter()
    }

    /// Returns the findings of the checks that failed, in order.
    pub fn failures(&self) -> impl Iterator<Item = &Finding> {
        self.findings().filter(|finding| finding.failure().is_some())
    }

    /// Returns whether this rule of the contract failed with either inner service.
    #[must_use]
    pub fn broke(&self, rule: Rule) -> bool {
        self.failures().any(|finding| finding.rule == Some(rule))
    }

    /// Asserts that no check failed.
    ///
    /// # Panics
    ///
    /// Panics with the report if a check failed.
    #[track_caller]
    pub fn assert(&self) {
        let failures = self.failures().count();
        assert!(failures == 0, "{failures} checks failed\n{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.findings().try_for_each(|finding| writeln!(f, "{finding}"))
    }
}
