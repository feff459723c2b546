//! A call that a layer runs or has rejected.

use std::pin::Pin;

use pin_project_lite::pin_project;

use super::ended::polled_after_end;

pin_project! {
    /// A call in the future of a layer that can reject it.
    ///
    /// `A` is the value that the layer holds while the call runs. `R` is the value from which it
    /// creates a rejection. There are two variants instead of three, because the compiler can then
    /// store the variant in an unused value of the future.
    #[project = RejectableProj]
    pub(crate) enum Rejectable<F, A = (), R = ()> {
        // Fields are dropped in order. The future is first, because the call must hold its
        // admission while it is dropped.
        Running { #[pin] future: F, admission: A },
        // `None` after the rejection was reported, and after the call has ended.
        Rejected { reason: Option<R> },
    }
}

impl<F, A, R> Rejectable<F, A, R> {
    /// Creates a call that runs.
    #[inline]
    pub(crate) fn running(future: F, admission: A) -> Self {
        Self::Running { future, admission }
    }

    /// Creates a call that was rejected. The rejection is not reported yet.
    #[inline]
    pub(crate) fn rejected(reason: R) -> Self {
        Self::Rejected { reason: Some(reason) }
    }

    /// Returns `true` while the call runs.
    #[inline]
    pub(crate) fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }

    /// Returns the future and the admission while the call runs.
    #[inline]
    pub(crate) fn as_running(self: Pin<&mut Self>) -> Option<(Pin<&mut F>, &mut A)> {
        match self.project() {
            RejectableProj::Running { future, admission } => Some((future, admission)),
            RejectableProj::Rejected { .. } => None,
        }
    }

    /// Ends a running call. It drops the future first, and then the admission.
    #[inline]
    pub(crate) fn end(mut self: Pin<&mut Self>) {
        // Dropped in place, because taking them out would move the future and the admission.
        self.set(Self::Rejected { reason: None });
    }

    /// Reports the rejection of a call that does not run. It can be reported once.
    ///
    /// # Panics
    ///
    /// Panics if the rejection was reported before, or if the call has ended.
    // Not inlined, so that the path of a successful call stays short enough to be inlined.
    #[cold]
    pub(crate) fn reject<T>(self: Pin<&mut Self>, report: impl FnOnce(R) -> T) -> T {
        let reason = match self.project() {
            RejectableProj::Rejected { reason } => reason.take(),
            RejectableProj::Running { .. } => None,
        };
        report(reason.unwrap_or_else(|| polled_after_end()))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{Future, Ready, ready},
        panic::{AssertUnwindSafe, catch_unwind},
        pin::pin,
        sync::{Arc, Mutex},
    };

    use super::*;

    /// A value that notes its drop in a log.
    struct Noted(&'static str, Arc<Mutex<Vec<&'static str>>>);

    impl Drop for Noted {
        fn drop(&mut self) {
            self.1.lock().unwrap().push(self.0);
        }
    }

    #[test]
    fn the_future_goes_before_what_the_layer_holds() {
        let log = Arc::default();
        let running = || {
            let held = Noted("held", Arc::clone(&log));
            Rejectable::<_, _>::running(Noted("future", Arc::clone(&log)), held)
        };
        drop(running());
        assert_eq!(*log.lock().unwrap(), ["future", "held"]);

        log.lock().unwrap().clear();
        let mut call = pin!(running());
        call.as_mut().end();
        assert_eq!(*log.lock().unwrap(), ["future", "held"]);
        assert!(!call.is_running() && call.as_mut().as_running().is_none());
        call.end();
        assert_eq!(*log.lock().unwrap(), ["future", "held"]);
    }

    #[test]
    fn a_rejection_is_reported_once() {
        let mut call = pin!(Rejectable::<Ready<()>, (), _>::rejected("full"));
        assert!(!call.is_running() && call.as_mut().as_running().is_none());
        assert_eq!(call.as_mut().reject(str::len), 4);
        let again = catch_unwind(AssertUnwindSafe(|| call.as_mut().reject(str::len)));
        let text = *again.unwrap_err().downcast::<&str>().unwrap();
        assert_eq!(text, "response future polled after completion");
    }

    #[test]
    #[should_panic = "response future polled after completion"]
    fn a_call_that_has_ended_reports_nothing() {
        let mut call = pin!(Rejectable::<_, _>::running(ready(()), ()));
        call.as_mut().end();
        call.reject(|()| ());
    }

    #[test]
    fn it_is_no_larger_than_an_option_and_a_flag() {
        type Held = (Arc<()>, bool);

        fn compare<F: Future>(_: F) {
            assert!(size_of::<Rejectable<F>>() <= size_of::<(Option<F>, bool)>());
            let with_held = size_of::<(Option<F>, Held, bool)>();
            assert!(size_of::<Rejectable<F, Held, Arc<()>>>() <= with_held);
        }
        compare(ready(()));
        compare(ready(1_u64));
        compare(Box::pin(ready(1_u64)));
        compare(Box::pin(ready(1_u64)) as Pin<Box<dyn Future<Output = u64>>>);
        compare(async {});
        compare(async { tokio::task::yield_now().await });
    }
}
