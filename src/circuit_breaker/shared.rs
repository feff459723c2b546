//! The state that a breaker shares with its services and their calls.

use std::{fmt, sync::Arc, time::Duration};

use super::breaker::Breaker;
use crate::call::account::Account;

/// A handle to a breaker and to the classifier of its results.
pub(crate) trait Handle {
    /// The type of the classifier.
    type Classifier;

    /// Returns the breaker.
    fn breaker(&self) -> &Breaker;

    /// Returns the classifier.
    fn classifier(&self) -> &Self::Classifier;

    /// Returns the limit of the stack for each call or attempt, if it has one.
    fn own_limit(&self) -> Option<Duration>;

    /// Returns the breaker as the account of a response, which may outlive the classifier.
    fn account(&self) -> Arc<dyn Account>;
}

/// A breaker, the classifier of its results and the limit of its stack, which all calls of a
/// breaker share by one reference count.
pub(super) struct Shared<C> {
    pub(super) breaker: Arc<Breaker>,
    pub(super) classifier: Arc<C>,
    pub(super) own_limit: Option<Duration>,
}

impl<C> Shared<C> {
    pub(super) fn new(
        breaker: Arc<Breaker>,
        classifier: Arc<C>,
        own_limit: Option<Duration>,
    ) -> Arc<Self> {
        Arc::new(Self { breaker, classifier, own_limit })
    }
}

impl<C> Handle for Shared<C> {
    type Classifier = C;

    #[inline]
    fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    #[inline]
    fn classifier(&self) -> &C {
        &self.classifier
    }

    #[inline]
    fn own_limit(&self) -> Option<Duration> {
        self.own_limit
    }

    fn account(&self) -> Arc<dyn Account> {
        Arc::clone(&self.breaker) as _
    }
}

/// A breaker of a key, and what the calls of all keys share. Each call has its own value.
pub(super) struct OfKey<C> {
    pub(super) breaker: Arc<Breaker>,
    pub(super) rules: Arc<Rules<C>>,
}

/// The classifier of the results of all keys, and the limit of their stack.
#[derive(Debug)]
pub(super) struct Rules<C> {
    pub(super) classifier: Arc<C>,
    pub(super) own_limit: Option<Duration>,
}

impl<C> Handle for OfKey<C> {
    type Classifier = C;

    #[inline]
    fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    #[inline]
    fn classifier(&self) -> &C {
        &self.rules.classifier
    }

    #[inline]
    fn own_limit(&self) -> Option<Duration> {
        self.rules.own_limit
    }

    fn account(&self) -> Arc<dyn Account> {
        Arc::clone(&self.breaker) as _
    }
}

impl<H: Handle> Handle for Arc<H> {
    type Classifier = H::Classifier;

    #[inline]
    fn breaker(&self) -> &Breaker {
        (**self).breaker()
    }

    #[inline]
    fn classifier(&self) -> &Self::Classifier {
        (**self).classifier()
    }

    #[inline]
    fn own_limit(&self) -> Option<Duration> {
        (**self).own_limit()
    }

    fn account(&self) -> Arc<dyn Account> {
        (**self).account()
    }
}

impl<C> fmt::Debug for Shared<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("breaker", &self.breaker).finish_non_exhaustive()
    }
}
