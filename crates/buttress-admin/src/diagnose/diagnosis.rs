//! The result of a diagnosis.

use serde::Serialize;

/// The cause of what the callers of a dependency see, as one sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Diagnosis {
    /// The party at fault.
    pub whose: Whose,
    /// The effect on callers.
    pub severity: Severity,
    /// The sentence, which may have a few more after it.
    pub sentence: String,
}

/// The party at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Whose {
    /// Nobody. The dependency is healthy or idle.
    Nobody,
    /// The dependency: its responses fail, are slow or do not arrive.
    Them,
    /// This process: its limits, its timeouts, or the time that its callers leave.
    Us,
    /// A person, who changed a layer by hand.
    Hand,
}

/// The effect on callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Severity {
    /// None.
    Ok,
    /// Few calls fail, or something may fail soon.
    Warning,
    /// Calls fail or are rejected.
    Critical,
}

/// The diagnosis of one case, if the case applies.
pub(super) type Found = Option<(Whose, Severity, String)>;
