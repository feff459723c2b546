use std::fmt;

/// What became of one check.
#[derive(Clone, Debug)]
pub struct Finding {
    name: &'static str,
    verdict: Result<(), String>,
}

impl Finding {
    pub(super) fn new(name: &'static str, verdict: Result<(), String>) -> Self {
        Self { name, verdict }
    }

    /// The name of the check, to run it by [itself](super::check_one).
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What the store did wrong, if it did.
    pub fn failure(&self) -> Option<&str> {
        self.verdict.as_ref().err().map(String::as_str)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.failure() {
            None => write!(f, "passed {}", self.name),
            Some(why) => write!(f, "FAILED {}\n       {why}", self.name),
        }
    }
}

/// What the checks found, one by one. `Display` prints all of it.
#[derive(Clone, Debug)]
#[must_use = "a report that nobody asserts checks nothing"]
pub struct Report {
    findings: Vec<Finding>,
}

impl Report {
    pub(super) fn new(findings: Vec<Finding>) -> Self {
        Self { findings }
    }

    /// Every check in turn.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter()
    }

    /// The checks that the store fails.
    pub fn failures(&self) -> impl Iterator<Item = &Finding> {
        self.findings().filter(|finding| finding.failure().is_some())
    }

    /// Asserts that the store passes every check.
    ///
    /// # Panics
    ///
    /// With the whole report, if it does not.
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
