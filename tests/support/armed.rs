//! Code of the user that panics in its n-th run.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tower::Service;

thread_local! {
    /// The code that panics, and the number of runs until then.
    static ARMED: Cell<Option<(&'static str, u32)>> = const { Cell::new(None) };
}

/// Lets the n-th run of this code panic, on this thread.
pub(crate) fn arm(code: &'static str, n: u32) {
    ARMED.set(Some((code, n)));
}

/// Returns `true` if the armed code has not panicked.
pub(crate) fn disarm() -> bool {
    ARMED.take().is_some()
}

/// Marks a run of this code.
pub(crate) fn run(code: &'static str) {
    let Some((armed, n)) = ARMED.get().filter(|(armed, _)| *armed == code) else { return };
    ARMED.set((n > 1).then_some((armed, n - 1)));
    assert!(n > 1, "{code} panics");
}

/// A service whose `poll_ready` and `call` and whose future are code of the user.
#[derive(Clone)]
pub(crate) struct Fragile<S>(pub(crate) S, pub(crate) [&'static str; 3]);

impl<S, Req> Service<Req> for Fragile<S>
where
    S: Service<Req, Future: Send + 'static>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        run(self.1[0]);
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        run(self.1[1]);
        let (call, code) = (self.0.call(request), self.1[2]);
        Box::pin(async move {
            run(code);
            call.await
        })
    }
}
