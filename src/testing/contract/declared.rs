//! The declaration of a service under test.

use std::{fmt, sync::Arc};

use super::rule::Rule;
use crate::testing::{Flaky, Reserving};

/// The inner service that the checks put under your layer.
pub type Inner<Res, E> = Reserving<Flaky<Res, E>>;

pub(super) type Maker<T> = Arc<dyn Fn() -> T + Send + Sync>;
pub(super) type OwnCheck = Box<dyn Fn() -> Result<(), String>>;

/// Checks a service against the contract of [`tower_service::Service`] and of this crate.
///
/// Call [`check`](Self::check) first. The [module](crate::testing::contract) lists other checks.
///
/// # Example
///
/// ```
/// use buttress::testing::contract::{Contract, Rule};
/// use tower::{Layer, limit::ConcurrencyLimitLayer};
///
/// let report = Contract::new(|| "request", || "response", || "error")
///     .check(|inner| ConcurrencyLimitLayer::new(1).layer(inner));
/// println!("{report}");
/// report.assert();
/// assert!(!report.broke(Rule::FreesOnDrop));
/// ```
///
/// A service with timers is checked on a paused clock:
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// use std::time::Duration;
///
/// use buttress::testing::contract::{Contract, Rule};
/// use tower::{BoxError, Layer, timeout::TimeoutLayer};
///
/// Contract::new(|| "request", || "response", || BoxError::from("error"))
///     .except(Rule::NeedsNoRuntime, "tower arms the timer in `call`")
///     .check_with(
///         |inner| TimeoutLayer::new(Duration::from_secs(1)).layer(inner),
///         || tokio::time::advance(Duration::from_millis(10)),
///     )
///     .await
///     .assert();
/// # }
/// ```
pub struct Contract<Req, Res, E> {
    pub(super) request: Maker<Req>,
    pub(super) response: Maker<Res>,
    pub(super) error: Maker<E>,
    pub(super) always_ready: bool,
    pub(super) exceptions: Vec<(Rule, &'static str)>,
    pub(super) own: Vec<(&'static str, OwnCheck)>,
}

impl<Req, Res, E> Contract<Req, Res, E> {
    /// Creates the checks from closures that make a request, a response and an error.
    ///
    /// The inner service returns the response or the error. A layer that retries also sees the
    /// error. It can retry during the time that [`check_with`](Self::check_with) lets pass.
    pub fn new(
        request: impl Fn() -> Req + Send + Sync + 'static,
        response: impl Fn() -> Res + Send + Sync + 'static,
        error: impl Fn() -> E + Send + Sync + 'static,
    ) -> Self {
        Self {
            request: Arc::new(request),
            response: Arc::new(response),
            error: Arc::new(error),
            always_ready: false,
            exceptions: Vec::new(),
            own: Vec::new(),
        }
    }

    /// Declares that the service always reports `Ready`, and waits in its future.
    ///
    /// Default: unset. A service must then report `Pending` while its inner service does.
    #[must_use]
    pub const fn always_ready(mut self) -> Self {
        self.always_ready = true;
        self
    }

    /// Declares that a rule does not apply to the service, with the reason.
    ///
    /// Default: none. The report lists the rule as
    /// [`NotApplicable`](crate::testing::CheckOutcome::NotApplicable).
    #[must_use]
    pub fn except(mut self, rule: Rule, why: &'static str) -> Self {
        self.exceptions.push((rule, why));
        self
    }

    /// Adds a check of your own, named by a sentence.
    ///
    /// Default: none. The check returns the reason of a failure as its error. A panic also fails
    /// it. It runs at the end of [`check`](Self::check) and of [`check_with`](Self::check_with).
    #[must_use]
    pub fn also(
        mut self,
        sentence: &'static str,
        check: impl Fn() -> Result<(), String> + 'static,
    ) -> Self {
        self.own.push((sentence, Box::new(check)));
        self
    }

    pub(super) fn not_applicable(&self, rule: Rule) -> Option<&'static str> {
        let declared = self.exceptions.iter().find(|(except, _)| *except == rule);
        match declared {
            Some((_, why)) => Some(why),
            None if rule == Rule::WaitsEmptyHanded && !self.always_ready => {
                Some("the service is not declared always_ready()")
            }
            None => None,
        }
    }

    /// Creates a new inner service that succeeds.
    pub(super) fn inner(&self, slots: usize) -> Inner<Res, E>
    where
        Res: 'static,
        E: 'static,
    {
        let response = Arc::clone(&self.response);
        Reserving::new(Flaky::new([], move || Ok(response())), slots)
    }
}

impl<Req, Res, E> fmt::Debug for Contract<Req, Res, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contract")
            .field("always_ready", &self.always_ready)
            .field("exceptions", &self.exceptions)
            .finish_non_exhaustive()
    }
}
