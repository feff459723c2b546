//! The state that a breaker shares with its services and their calls.

use std::{fmt, sync::Arc};

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

    /// Returns the breaker as the account of a response, which may outlive the classifier.
    fn account(&self) -> Arc<dyn Account>;
}

/// A breaker and the classifier of its results.
///
/// A call of a breaker shares both by one reference count. A call of a keyed breaker has its own
/// value, because one classifier serves the breakers of all keys.
pub(super) struct Shared<C> {
    pub(super) breaker: Arc<Breaker>,
    pub(super) classifier: Arc<C>,
}

impl<C> Shared<C> {
    pub(super) fn new(breaker: Arc<Breaker>, classifier: Arc<C>) -> Arc<Self> {
        Arc::new(Self { breaker, classifier })
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

    fn account(&self) -> Arc<dyn Account> {
        (**self).account()
    }
}

impl<C> fmt::Debug for Shared<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("breaker", &self.breaker).finish_non_exhaustive()
    }
}
