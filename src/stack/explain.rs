use std::{fmt, time::Duration};

use super::{
    builder::Stack,
    describe::Describe,
    facts::{Facts, Limit},
    warnings::Warning,
};

/// What a stack will do, in numbers, and which of its settings contradict each other. Made by
/// [`Stack::explain`]; its `Display` is for people.
#[derive(Clone, Debug)]
pub struct Explanation {
    lines: Vec<String>,
    warnings: Vec<Warning>,
    worst_time: Option<Duration>,
    most_calls: u64,
}

impl Explanation {
    /// Which settings contradict each other; none, for a stack that makes sense.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The longest time that a call can take; `None` if it can take for ever, or if the limit depends
    /// on the request.
    pub fn worst_time(&self) -> Option<Duration> {
        self.worst_time
    }

    /// How many calls the dependency can see for one call.
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

impl<T, R, B, K, A, H, C> Stack<T, R, B, K, A, H, C>
where
    T: Describe,
    R: Describe,
    B: Describe,
    K: Describe,
    A: Describe,
    H: Describe,
{
    /// What the stack will do, and which of its settings contradict each other.
    ///
    /// ```
    /// use buttress::{Stack, retry::ReplayClones};
    ///
    /// let explanation = Stack::standard(ReplayClones).explain();
    /// assert!(explanation.warnings().is_empty(), "{explanation}");
    /// ```
    pub fn explain(&self) -> Explanation {
        let mut facts = Facts { under_balancer: self.under_balancer, ..Facts::default() };
        self.total_timeout.describe(&mut facts);
        self.retry.describe(&mut facts);
        self.bulkhead.describe(&mut facts);
        self.circuit_breaker.describe(&mut facts);
        self.attempt_timeout.describe(&mut facts);
        self.edge.describe(&mut facts);
        facts.explain()
    }
}

impl Facts {
    fn explain(&self) -> Explanation {
        Explanation {
            lines: self.lines(),
            warnings: self.warnings(),
            worst_time: self.worst_time(),
            most_calls: self.most_calls(),
        }
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = vec!["outermost first:".to_owned()];
        if let Some(Limit(limit)) = self.total {
            lines.push(format!("  total timeout    {}", shown(limit)));
        }
        if let Some(retry) = &self.retry {
            let budget = match retry.budget {
                Some(ratio) => format!("at most {:.0} % of the calls", ratio * 100.0),
                None => "no budget".to_owned(),
            };
            lines.push(format!(
                "  retry            up to {} times, pauses of up to {:?} in all, {budget}",
                retry.retries, retry.all_pauses,
            ));
        }
        if let Some(bulkhead) = &self.bulkhead {
            let then = match (bulkhead.queue, bulkhead.backpressure) {
                (Some((capacity, wait)), _) => format!("{capacity} more wait, up to {wait:?}"),
                (None, true) => "then not ready".to_owned(),
                (None, false) => "then refused".to_owned(),
            };
            lines.push(format!("  bulkhead         {} calls at once, {then}", bulkhead.limit));
        }
        if let Some(breaker) = &self.breaker {
            lines.push(format!("  circuit breaker  {}", breaker.summary));
        }
        if let Some(Limit(limit)) = self.attempt {
            lines.push(format!("  attempt timeout  {}", shown(limit)));
        }
        if let Some(Limit(idle)) = self.body {
            let wait = idle.map_or("for ever".to_owned(), |idle| format!("up to {idle:?}"));
            lines.push(format!(
                "  http             writes the headers of the hop; waits {wait} for a frame of the \
                 body"
            ));
        }
        let worst = self.worst_time().map_or("no bound is known".to_owned(), |t| format!("{t:?}"));
        lines.push(format!("longest call: {worst}"));
        if let Some(fit) = self.full_attempts() {
            lines.push(format!("full attempts that fit into the total: {fit}"));
        }
        let sustained = match self.retry.as_ref().and_then(|retry| retry.budget) {
            Some(ratio) => format!("; on average {:.2}, by the budget", 1.0 + ratio),
            None => String::new(),
        };
        lines.push(format!(
            "most calls of the service for one call: {}{sustained}",
            self.most_calls()
        ));
        lines
    }
}

fn shown(limit: Option<Duration>) -> String {
    limit.map_or("by request".to_owned(), |limit| format!("{limit:?}"))
}
