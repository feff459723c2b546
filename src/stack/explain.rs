use std::{fmt, time::Duration};

use super::{builder::Stack, facts::Known};
use crate::{
    cache::describe::CACHE,
    describe::{Describe, Facts, Warning, fact},
    fallback::describe::FALLBACK,
    retry::describe::BUDGET,
};

/// The behavior of a stack in numbers, with warnings about its settings.
///
/// [`Stack::explain`] creates it. Print it with `Display`.
#[derive(Clone, Debug)]
pub struct Explanation {
    lines: Vec<String>,
    warnings: Vec<Warning>,
    worst_time: Option<Duration>,
    most_calls: u64,
}

impl Explanation {
    /// Returns the warnings about settings that contradict each other or are missing.
    ///
    /// It is empty if the settings are consistent.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Returns the longest time that a call can take.
    ///
    /// It is `None` if a call can take forever, if the limit depends on the request, or if there is
    /// a layer of your own in `around_call`, which is outside the total timeout.
    ///
    /// With `http()` it is the time to the head of a response, except for gRPC. With
    /// [`body_deadline`](crate::http::HttpClientBuilder::body_deadline), or without `http()`, it is
    /// the time of the whole call.
    pub fn worst_time(&self) -> Option<Duration> {
        self.worst_time
    }

    /// Returns the maximum number of attempts, which are calls of the service for one call of the
    /// stack.
    ///
    /// It does not include further calls by a layer of your own, and the resends of a request that
    /// was [not processed](crate::retry#unprocessed-requests).
    pub fn most_calls(&self) -> u64 {
        self.most_calls
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            writeln!(f, "{line}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        Ok(())
    }
}

impl<Slots, C> Stack<Slots, C> {
    /// Returns the behavior of the stack in numbers, with warnings about its settings.
    ///
    /// ```
    /// use buttress::{Stack, retry::ReplayClones};
    ///
    /// let explanation = Stack::standard(ReplayClones).explain();
    /// assert!(explanation.warnings().is_empty(), "{explanation}");
    /// ```
    pub fn explain(&self) -> Explanation
    where
        Slots: Describe,
    {
        let mut facts = Facts::default();
        self.slots.describe(&mut facts);
        Known { facts, under_balancer: self.under_balancer }.explain()
    }
}

impl Known {
    fn explain(mut self) -> Explanation {
        let (layers, mut warnings) = self.facts.take_texts();
        let mut lines = vec!["outermost first:".to_owned()];
        lines.extend(layers);
        lines.extend(self.totals());
        warnings.extend(self.warnings());
        Explanation {
            lines,
            warnings,
            worst_time: self.worst_time(),
            most_calls: self.most_calls(),
        }
    }

    /// Returns the lines about the stack as a whole.
    fn totals(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let worst = self.worst_time().map_or("no bound is known".to_owned(), |t| format!("{t:?}"));
        let to = match self.facts.has(fact::BODY_WITHOUT_LIMIT) && self.worst_time().is_some() {
            true => ", to the head of the response (to the end of the body for gRPC)",
            false => "",
        };
        lines.push(format!("longest call: {worst}{to}"));
        if let Some(fit) = self.full_attempts() {
            lines.push(format!("full-length attempts within the total timeout: {fit}"));
        }
        let sustained = match self.facts.get(BUDGET) {
            Some(ratio) => format!("; {:.2} on average, limited by the budget", 1.0 + ratio),
            None => String::new(),
        };
        lines.push(format!("most attempts for one call: {}{sustained}", self.most_calls()));
        if self.facts.has(FALLBACK) || self.facts.has(CACHE) {
            lines.push(
                "on a server, a fallback and a cache stand around a handler, not in its stack"
                    .to_owned(),
            );
        }
        lines.extend(self.blind_spots());
        lines
    }
}
