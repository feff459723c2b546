use std::{
    error::Error as StdError,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{
    BoxError,
    chaos::{
        pause::Pause,
        switch::{Switch, Ticket},
    },
};

/// A fault of one body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyFault {
    Cut,
    Stall,
    Trickle(Duration),
}

impl BodyFault {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Cut => "body_cut",
            Self::Stall => "body_stall",
            Self::Trickle(_) => "body_trickle",
        }
    }
}

/// The fault of a response that has not arrived.
pub(super) struct Drawn {
    pub(super) fault: BodyFault,
    pub(super) number: u64,
    pub(super) switch: Arc<Switch>,
    pub(super) ticket: Ticket,
}

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
        // `None` after it was cut off.
        #[pin]
        inner: Option<B>,
        faulty: Option<Pin<Box<Faulty>>>,
    }
}

pin_project! {
    struct Faulty {
        fault: BodyFault,
        #[pin]
        pause: Pause,
        // The fault begins with the next poll.
        due: bool,
    }
}

impl<B: Body> ChaosBody<B> {
    pub(super) fn untouched(inner: B) -> Self {
        Self { inner: Some(inner), faulty: None }
    }

    /// Creates a body with a fault, unless it is empty, the layer is disarmed by now, or too many
    /// bodies stall.
    pub(super) fn faulty(inner: B, drawn: Drawn) -> Self {
        let Drawn { fault, number, switch, ticket } = drawn;
        let switch = &switch;
        if inner.is_end_stream() || switch.is_over(ticket) {
            return Self::untouched(inner);
        }
        let pause = match fault {
            BodyFault::Stall => Pause::hang(switch, ticket),
            BodyFault::Cut | BodyFault::Trickle(_) => {
                Some(Pause::of(switch, ticket, Duration::ZERO))
            }
        };
        // `None` if too many bodies stall.
        let Some(pause) = pause else { return Self::untouched(inner) };
        switch.inject(fault.as_str(), number);
        let mut faulty = Box::pin(Faulty { fault, pause, due: false });
        if let BodyFault::Trickle(_) = fault {
            faulty.as_mut().frame_passed();
        }
        Self { inner: Some(inner), faulty: Some(faulty) }
    }
}

/// The decision on the next frame.
enum Next {
    Pass,
    /// It passes, and the fault is over.
    PassAll,
    Cut,
}

impl Faulty {
    /// Begins the fault after a frame.
    fn frame_passed(self: Pin<&mut Self>) {
        let this = self.project();
        *this.due = true;
        if let BodyFault::Trickle(pause) = *this.fault {
            this.pause.begin(pause);
        }
    }

    /// Returns `Ready` when it is decided what happens to the next frame.
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Next> {
        let this = self.project();
        if !*this.due {
            return Poll::Ready(Next::Pass);
        }
        Poll::Ready(match this.fault {
            BodyFault::Cut if this.pause.is_over() => Next::PassAll,
            BodyFault::Cut => Next::Cut,
            BodyFault::Stall => {
                ready!(this.pause.poll(cx));
                Next::PassAll
            }
            BodyFault::Trickle(_) => {
                ready!(this.pause.poll(cx));
                *this.due = false;
                Next::Pass
            }
        })
    }
}

impl<B: Body> Body for ChaosBody<B> {
    type Data = B::Data;
    type Error = ChaosBodyError<B::Error>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, Self::Error>>> {
        let mut this = self.project();
        if let Some(faulty) = this.faulty {
            match ready!(faulty.as_mut().poll_next(cx)) {
                Next::Pass => {}
                Next::PassAll => *this.faulty = None,
                Next::Cut => {
                    *this.faulty = None;
                    this.inner.set(None);
                    return Poll::Ready(Some(Err(ChaosBodyError::Cut)));
                }
            }
        }
        let Some(inner) = this.inner.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let frame = ready!(inner.poll_frame(cx));
        match &frame {
            Some(Ok(_)) => {
                if let Some(faulty) = this.faulty {
                    faulty.as_mut().frame_passed();
                }
            }
            _ => *this.faulty = None,
        }
        Poll::Ready(frame.map(|frame| frame.map_err(ChaosBodyError::Service)))
    }

    fn is_end_stream(&self) -> bool {
        // Otherwise, the reader of a body of one frame would not see its fault.
        self.faulty.is_none() && self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B> fmt::Debug for ChaosBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fault = self.faulty.as_ref().map(|faulty| faulty.fault);
        f.debug_struct("ChaosBody").field("fault", &fault).finish_non_exhaustive()
    }
}
