use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use super::admission::{Admitted, Breaker, Judge};
use crate::{CarryRejection, CircuitOpen, Classify, Rejection, telemetry};

pin_project! {
    /// The future of a [`CircuitBreaker`](super::CircuitBreaker) and of a
    /// [`KeyedCircuitBreaker`](super::KeyedCircuitBreaker).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, B: Breaker, J = ()> {
        #[pin]
        state: State<F, B, J>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, B: Breaker, J> {
        Called { #[pin] future: F, admission: Admitted<B>, judge: J },
        Refused { refusal: CircuitOpen },
        Done,
    }
}

impl<F, B: Breaker, J> ResponseFuture<F, B, J> {
    pub(super) fn called(future: F, admission: Admitted<B>, judge: J) -> Self {
        Self { state: State::Called { future, admission, judge } }
    }

    pub(super) fn refused(refusal: CircuitOpen) -> Self {
        Self { state: State::Refused { refusal } }
    }
}

impl<F, B, J, T, E> Future for ResponseFuture<F, B, J>
where
    F: Future<Output = Result<T, E>>,
    B: Breaker,
    J: Judge<B, Classifier: Classify<T, E>>,
    E: CarryRejection,
{
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        let result = match state.as_mut().project() {
            StateProj::Called { future, admission, judge } => {
                match admission.run(|| future.poll(cx)) {
                    Poll::Ready(result) => {
                        admission.settle(judge, result.as_ref());
                        result
                    }
                    Poll::Pending => {
                        admission.has_to_wait();
                        return Poll::Pending;
                    }
                }
            }
            StateProj::Refused { refusal } => {
                let rejection = Rejection::from(refusal.clone());
                telemetry::rejected(&rejection);
                Err(E::from_rejection(rejection))
            }
            StateProj::Done => panic!("a response future was polled after it had ended"),
        };
        state.set(State::Done);
        Poll::Ready(result)
    }
}

impl<F, B: Breaker, J> fmt::Debug for ResponseFuture<F, B, J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("circuit_breaker::ResponseFuture").finish_non_exhaustive()
    }
}
