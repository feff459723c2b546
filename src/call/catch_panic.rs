//! Helpers that catch the panic of a call, or notice it.

use std::{
    any::Any,
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

pin_project! {
    /// Catches the panic of a future, so that the caller can settle the work before it resumes it.
    pub(crate) struct CatchPanic<F> {
        #[pin]
        pub(crate) future: F,
    }
}

impl<F: Future> Future for CatchPanic<F> {
    type Output = Result<F::Output, Box<dyn Any + Send>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let future = self.project().future;
        // Unwind safe, because a future that panicked is only dropped and never polled again.
        match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
            Ok(polled) => polled.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}

impl<F> fmt::Debug for CatchPanic<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CatchPanic").finish_non_exhaustive()
    }
}

/// Calls a closure if a panic drops it. It costs nothing without a panic.
///
/// `thread::panicking` cannot be used instead. A runtime drops the future after unwinding, when it
/// returns `false` again.
pub(crate) struct Unwinding<F: FnOnce()> {
    note: Option<F>,
}

impl<F: FnOnce()> Unwinding<F> {
    /// Creates a value that calls `note` if it is dropped before [`disarm`](Self::disarm).
    #[inline]
    pub(crate) fn noting(note: F) -> Self {
        Self { note: Some(note) }
    }

    #[inline]
    pub(crate) fn disarm(&mut self) {
        self.note = None;
    }
}

impl<F: FnOnce()> Drop for Unwinding<F> {
    #[inline]
    fn drop(&mut self) {
        if let Some(note) = self.note.take() {
            note();
        }
    }
}
