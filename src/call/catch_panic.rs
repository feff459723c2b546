//! Panics of a call: caught, or noted as they pass.

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
    /// Catches the panic of a future, so that what it began can be settled before the panic goes on.
    pub(crate) struct CatchPanic<F> {
        #[pin]
        pub(crate) future: F,
    }
}

impl<F: Future> Future for CatchPanic<F> {
    type Output = Result<F::Output, Box<dyn Any + Send>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let future = self.project().future;
        // What is in the middle of a change is only dropped after this.
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

/// Calls a closure if it is dropped by a panic. It costs nothing while there is none.
///
/// A runtime drops a future after the unwinding, when `thread::panicking` no longer tells.
pub(crate) struct Unwinding<F: FnOnce()> {
    note: Option<F>,
}

impl<F: FnOnce()> Unwinding<F> {
    /// Calls `note` if this is dropped before [`disarm`](Self::disarm).
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
