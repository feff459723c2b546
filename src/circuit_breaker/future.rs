use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;

use super::{
    admission::{Admitted, Breaker, Judge},
    state::{Core, Refusal},
};
use crate::{
    CarryRejection, CircuitOpen, Classify,
    call::completion::{AtHead, Completion},
    telemetry,
};

pin_project! {
    /// The future of a [`CircuitBreaker`](super::CircuitBreaker) and of a
    /// [`KeyedCircuitBreaker`](super::KeyedCircuitBreaker).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, B: Breaker, J = (), M = AtHead> {
        // `None` when the call was refused, and when it has ended. It stands before its admission,
        // for what is dropped first must still be accounted for.
        #[pin]
        future: Option<F>,
        admission: Admitted<B>,
        refused: Option<Refused>,
        judge: J,
        completion: PhantomData<fn() -> M>,
    }
}

/// A refusal that has not been reported yet.
struct Refused {
    retry_after: Option<Duration>,
}

impl<F, B: Breaker, J, M> ResponseFuture<F, B, J, M> {
    #[inline]
    pub(super) fn called(future: F, admission: Admitted<B>, judge: J) -> Self {
        let future = Some(future);
        Self { future, admission, refused: None, judge, completion: PhantomData }
    }

    #[inline]
    pub(super) fn refused(breaker: Arc<B>, refusal: Refusal, judge: J) -> Self {
        let admission = Admitted::refused(breaker);
        let refused = Some(Refused { retry_after: refusal.retry_after });
        Self { future: None, admission, refused, judge, completion: PhantomData }
    }
}

impl<F, B, J, M, T, E> Future for ResponseFuture<F, B, J, M>
where
    F: Future<Output = Result<T, E>>,
    B: Breaker,
    J: Judge<B, Classifier: Classify<T, E>>,
    E: CarryRejection,
    M: Completion<T>,
{
    type Output = Result<T, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(future) = this.future.as_mut().as_pin_mut() else {
            return Poll::Ready(Err(refuse(this.refused, this.admission.ledger().core())));
        };
        let Poll::Ready(mut result) = this.admission.run(|| future.poll(cx)) else {
            this.admission.has_to_wait();
            return Poll::Pending;
        };
        this.admission.settle_or_hold::<M, _, _, _>(this.judge, &mut result);
        this.future.set(None);
        Poll::Ready(result)
    }
}

// Out of line, so that the path of a call which goes well stays short enough to be inlined.
#[cold]
fn refuse<E: CarryRejection>(refused: &mut Option<Refused>, core: &Core) -> E {
    let refused = refused.take().expect("a response future was polled after it had ended");
    telemetry::refuse(CircuitOpen::by(core.config().name.clone(), refused.retry_after))
}

impl<F, B: Breaker, J, M> fmt::Debug for ResponseFuture<F, B, J, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("circuit_breaker::ResponseFuture").finish_non_exhaustive()
    }
}
