//! The findings of the retry layers beneath, for the response to the hop above.

use std::{
    cell::Cell,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use super::restore::Restore;

thread_local! {
    static HOP: Cell<Option<Hop>> = const { Cell::new(None) };
}

/// Hides the ambient hop.
pub(super) fn clear() -> Restore<Option<Hop>> {
    Restore::after_setting(&HOP, None)
}

/// The findings of the retry layers beneath, collected while a request is served.
///
/// A server adds them to its response. The hop above then does not retry a request that was already
/// retried here without success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hop {
    retries_exhausted: bool,
    told_to_stop: bool,
    resent: bool,
}

impl Hop {
    /// Runs a future and returns its output together with the findings of the retry layers in it.
    ///
    /// An outer observer does not see the findings of an inner observer, because they belong to the
    /// inner response.
    pub fn observe<F: Future>(future: F) -> Observe<F> {
        Observe { future, hop: Self::default() }
    }

    /// Returns `true` if a retry layer gave up on a failure that it would have retried.
    ///
    /// Its retries or its budget were exhausted, or its time ran out after a retry. A request that
    /// ran out of time before its first retry does not count, because the hop above may give it
    /// more time.
    pub fn retries_exhausted(&self) -> bool {
        self.retries_exhausted
    }

    /// Returns `true` if a retry layer was told not to retry.
    pub fn told_to_stop(&self) -> bool {
        self.told_to_stop
    }

    /// Returns `true` if a retry layer has begun a second attempt.
    ///
    /// A rejection of that attempt does not mean that nothing began.
    pub(crate) fn resent(&self) -> bool {
        self.resent
    }

    /// Returns `true` if a retry layer has begun a second attempt of the current request.
    #[cfg(feature = "http")]
    pub(crate) fn is_resent() -> bool {
        HOP.get().is_some_and(|hop| hop.resent)
    }

    pub(crate) fn report_resent() {
        Self::report(|hop| hop.resent = true);
    }

    /// Reports the findings that another task made for this request.
    pub(crate) fn report_again(self) {
        Self::report(|hop| {
            hop.retries_exhausted |= self.retries_exhausted;
            hop.told_to_stop |= self.told_to_stop;
            hop.resent |= self.resent;
        });
    }

    pub(crate) fn report_exhausted() {
        Self::report(|hop| hop.retries_exhausted = true);
    }

    pub(crate) fn report_stop() {
        Self::report(|hop| hop.told_to_stop = true);
    }

    /// Runs a part of a request, and collects the findings of the retry layers in it.
    #[inline]
    pub(crate) fn run<T>(&mut self, piece: impl FnOnce() -> T) -> T {
        let _hop = Restore::after_setting(&HOP, Some(*self));
        let value = piece();
        *self = HOP.get().unwrap_or_default();
        value
    }

    fn report(change: impl FnOnce(&mut Self)) {
        // Without an observer there is no request to report to.
        if let Some(mut hop) = HOP.get() {
            change(&mut hop);
            HOP.set(Some(hop));
        }
    }
}

pin_project! {
    /// The future of [`Hop::observe`].
    #[must_use = "futures do nothing unless polled"]
    pub struct Observe<F> {
        #[pin]
        future: F,
        hop: Hop,
    }
}

impl<F: Future> Future for Observe<F> {
    type Output = (F::Output, Hop);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let future = this.future;
        let output = this.hop.run(|| future.poll(cx));
        output.map(|output| (output, *this.hop))
    }
}

impl<F> fmt::Debug for Observe<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observe").field("hop", &self.hop).finish_non_exhaustive()
    }
}
