use std::{
    error::Error as StdError,
    fmt,
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tracing::Span;

use super::shared::{BodyFault, Drawn, Shared};
use crate::{
    BoxError,
    chaos::{pause::Pause, switch::Ticket},
};

/// The error of a body with faults.
///
/// It converts to a [`BoxError`] by `?` or `BoxError::from`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChaosBodyError<E> {
    /// The layer cut the body off.
    Cut,
    /// The body itself failed.
    Service(E),
}

impl<E: fmt::Display> fmt::Display for ChaosBodyError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut => CutOff.fmt(f),
            Self::Service(error) => error.fmt(f),
        }
    }
}

impl<E: Into<BoxError>> From<ChaosBodyError<E>> for BoxError {
    // Replaces an implementation of `std::error::Error`, which boxed errors would not allow.
    fn from(error: ChaosBodyError<E>) -> Self {
        match error {
            ChaosBodyError::Cut => CutOff.into(),
            ChaosBodyError::Service(error) => error.into(),
        }
    }
}

#[derive(Debug)]
struct CutOff;

impl fmt::Display for CutOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body was cut off by chaos")
    }
}

impl StdError for CutOff {}

pin_project! {
    /// The body of a response, which may be cut off, stall or trickle.
    ///
    /// Without a fault, it passes through unchanged.
    pub struct ChaosBody<B> {
        #[pin]
        body: Inner<B>,
    }
}

pin_project! {
    #[project = InnerProj]
    enum Inner<B> {
        Untouched { #[pin] body: B },
        // Boxed, so that a body without a fault does not make room for one.
        Faulty { faulty: Pin<Box<Faulty<B>>> },
    }
}

pin_project! {
    struct Faulty<B> {
        // `None` after it was cut off.
        #[pin]
        inner: Option<B>,
        fault: BodyFault,
        number: u64,
        // The span of the call, for the report of the fault.
        span: Span,
        // `None` when the fault is over.
        #[pin]
        pause: Option<Pause>,
        // The fault begins with the next poll.
        due: bool,
        injected: bool,
        // The error comes with the next poll.
        is_cut: bool,
    }
}

impl<B: Body> ChaosBody<B> {
    #[inline]
    pub(super) fn untouched(body: B) -> Self {
        Self { body: Inner::Untouched { body } }
    }

    /// Creates a body with the fault that is drawn for it, if there is one. An empty body has none.
    #[cold]
    pub(super) fn draw(body: B, shared: &Shared, ticket: Ticket) -> Self {
        let drawn = if body.is_end_stream() { None } else { shared.draw(ticket) };
        let Some(Drawn { fault, number, pause }) = drawn else { return Self::untouched(body) };
        let (inner, pause, span) = (Some(body), Some(pause), Span::current());
        let (due, injected, is_cut) = (false, false, false);
        let faulty = Faulty { inner, fault, number, span, pause, due, injected, is_cut };
        let mut faulty = Box::pin(faulty);
        if let BodyFault::Trickle(_) = fault {
            faulty.as_mut().frame_passed();
        }
        Self { body: Inner::Faulty { faulty } }
    }
}

/// The decision on the next frame.
enum Next {
    Pass,
    /// It passes, and the fault is over.
    PassAll,
    Cut,
}

impl<B> Faulty<B> {
    /// Begins the fault after a frame.
    fn frame_passed(self: Pin<&mut Self>) {
        let this = self.project();
        *this.due = true;
        if let (BodyFault::Trickle(length), Some(pause)) = (*this.fault, this.pause.as_pin_mut()) {
            pause.begin(length);
        }
    }

    /// Returns `Ready` when it is decided what happens to the next frame.
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Next> {
        let this = self.project();
        let Some(mut pause) = this.pause.as_pin_mut().filter(|_| *this.due) else {
            return Poll::Ready(Next::Pass);
        };
        let next = match this.fault {
            BodyFault::Cut if pause.is_over() => return Poll::Ready(Next::PassAll),
            BodyFault::Cut => Poll::Ready(Next::Cut),
            BodyFault::Stall => pause.as_mut().poll(cx).map(|()| Next::PassAll),
            BodyFault::Trickle(_) => pause.as_mut().poll(cx).map(|()| {
                *this.due = false;
                Next::Pass
            }),
        };
        let begins = next.is_pending() || matches!(next, Poll::Ready(Next::Cut));
        if begins && !mem::replace(this.injected, true) {
            let _entered = this.span.enter();
            pause.inject(this.fault.as_str(), *this.number);
        }
        next
    }
}

impl<B: Body> Faulty<B> {
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<FrameOf<B>> {
        if mem::take(self.as_mut().project().is_cut) {
            return Poll::Ready(Some(Err(ChaosBodyError::Cut)));
        }
        let next = ready!(self.as_mut().poll_next(cx));
        let mut this = self.as_mut().project();
        match next {
            Next::Pass => {}
            Next::PassAll => this.pause.set(None),
            Next::Cut => {
                self.cut();
                return Poll::Ready(Some(Err(ChaosBodyError::Cut)));
            }
        }
        let Some(mut inner) = this.inner.as_pin_mut() else { return Poll::Ready(None) };
        let frame = ready!(inner.as_mut().poll_frame(cx));
        let Some(Ok(passed)) = &frame else {
            this.pause.set(None);
            return Poll::Ready(frame.map(|frame| frame.map_err(ChaosBodyError::Service)));
        };
        // A reader that knows the length does not ask again, so that it would see no cut.
        let is_whole = passed.is_data() && inner.size_hint().exact() == Some(0);
        let can_cut = is_whole && *this.fault == BodyFault::Cut && this.pause.is_some();
        self.as_mut().frame_passed();
        if can_cut && matches!(self.as_mut().poll_next(cx), Poll::Ready(Next::Cut)) {
            self.as_mut().cut();
            // Hyper sends the head once it waits for the body.
            *self.project().is_cut = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(frame.map(|frame| frame.map_err(ChaosBodyError::Service)))
    }

    /// Drops the inner body.
    fn cut(self: Pin<&mut Self>) {
        let mut this = self.project();
        this.pause.set(None);
        this.inner.set(None);
    }
}

type FrameOf<B> = Option<Result<Frame<<B as Body>::Data>, ChaosBodyError<<B as Body>::Error>>>;

impl<B: Body> Body for ChaosBody<B> {
    type Data = B::Data;
    type Error = ChaosBodyError<B::Error>;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, Self::Error>>> {
        match self.project().body.project() {
            InnerProj::Untouched { body } => body.poll_frame(cx).map_err(ChaosBodyError::Service),
            InnerProj::Faulty { faulty } => faulty.as_mut().poll_frame(cx),
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        match &self.body {
            Inner::Untouched { body } => body.is_end_stream(),
            // Otherwise, the reader of a body of one frame would not see its fault.
            Inner::Faulty { faulty } => {
                let is_over = faulty.pause.is_none() && !faulty.is_cut;
                is_over && faulty.inner.as_ref().is_none_or(Body::is_end_stream)
            }
        }
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        let inner = match &self.body {
            Inner::Untouched { body } => Some(body),
            Inner::Faulty { faulty } if faulty.is_cut => return SizeHint::default(),
            Inner::Faulty { faulty } => faulty.inner.as_ref(),
        };
        inner.map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B> fmt::Debug for ChaosBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fault = match &self.body {
            Inner::Faulty { faulty } if faulty.pause.is_some() => Some(faulty.fault),
            _ => None,
        };
        f.debug_struct("ChaosBody").field("fault", &fault).finish_non_exhaustive()
    }
}
