//! The report of a suite of checks: the contract kit's, and the one for stores.

use std::fmt;

use super::contract::Rule;

/// The outcome of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// The check passed.
    Passed,
    /// The check failed, and why.
    Failed(String),
    /// The check does not apply, and why.
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

    /// Returns the name of the check: for a rule of the contract its sentence, for a store's check
    /// the name to run it [by itself](super::idempotency::check_one).
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the rule of the contract that was checked, `None` for any other check.
    #[must_use]
    pub const fn rule(&self) -> Option<Rule> {
        self.rule
    }

    /// Returns the inner service that a rule was checked over: `mock` or `reserving`, and an empty
    /// string for any other check.
    #[must_use]
    pub const fn over(&self) -> &'static str {
        self.over
    }

    /// Returns the outcome.
    #[must_use]
    pub const fn outcome(&self) -> &CheckOutcome {
        &self.outcome
    }

    /// Returns the reason of a failure, `None` if the check did not fail.
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

/// The findings of a suite of checks, in order. `Display` prints all of them.
#[derive(Clone, Debug)]
#[must_use = "a report checks nothing until it is asserted"]
pub struct Report {
    pub(super) findings: Vec<Finding>,
}

impl Report {
    /// Returns every finding in order.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter()
    }

    /// Returns the findings that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Finding> {
        self.findings().filter(|finding| finding.failure().is_some())
    }

    /// Returns whether this rule of the contract failed, over either inner service.
    #[must_use]
    pub fn broke(&self, rule: Rule) -> bool {
        self.failures().any(|finding| finding.rule == Some(rule))
    }

    /// Asserts that no check failed.
    ///
    /// # Panics
    ///
    /// Panics with the whole report if one did.
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
