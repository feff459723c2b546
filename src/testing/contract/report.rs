//! What a check found.

use std::fmt;

use super::rule::Rule;

/// What became of one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The service keeps the rule.
    Passed,
    /// The service breaks the rule, and how.
    Failed(String),
    /// The rule was not checked, and why.
    NotApplicable(String),
}

/// One rule, checked over one kind of inner service.
#[derive(Clone, Debug)]
pub struct Finding {
    pub(super) rule: Option<Rule>,
    pub(super) sentence: &'static str,
    pub(super) over: &'static str,
    pub(super) verdict: Verdict,
}

impl Finding {
    /// The rule; none for a check of the user's own.
    #[must_use]
    pub const fn rule(&self) -> Option<Rule> {
        self.rule
    }

    /// The rule in a sentence.
    #[must_use]
    pub const fn sentence(&self) -> &'static str {
        self.sentence
    }

    /// The inner service it was checked over: `mock`, `reserving`, or nothing for a check of the user's own.
    #[must_use]
    pub const fn over(&self) -> &'static str {
        self.over
    }

    /// What became of it.
    #[must_use]
    pub const fn verdict(&self) -> &Verdict {
        &self.verdict
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, why) = match &self.verdict {
            Verdict::Passed => ("passed", None),
            Verdict::Failed(why) => ("FAILED", Some(why)),
            Verdict::NotApplicable(why) => ("n/a", Some(why)),
        };
        write!(f, "{word:6} {:9} {}", self.over, self.sentence)?;
        why.map_or(Ok(()), |why| write!(f, "\n{:17}{why}", ""))
    }
}

/// What a check found, rule by rule. `Display` prints all of it.
#[derive(Clone, Debug)]
#[must_use = "a report that nobody asserts checks nothing"]
pub struct Report {
    pub(super) findings: Vec<Finding>,
}

impl Report {
    /// Every rule in turn.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter()
    }

    /// The rules that are broken.
    pub fn failures(&self) -> impl Iterator<Item = &Finding> {
        self.findings().filter(|finding| matches!(finding.verdict, Verdict::Failed(_)))
    }

    /// Whether this rule is broken, over either inner service.
    #[must_use]
    pub fn broke(&self, rule: Rule) -> bool {
        self.failures().any(|finding| finding.rule == Some(rule))
    }

    /// Asserts that no rule is broken.
    ///
    /// # Panics
    ///
    /// With the whole report, if one is.
    #[track_caller]
    pub fn assert(&self) {
        let failures = self.failures().count();
        assert!(failures == 0, "{failures} checks failed\n{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        Ok(())
    }
}
