//! A scripted body.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use buttress::{Deadline, context::Attempt};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Bytes;

/// The next step of a [`Scripted`] body, which waits for more steps when none are left.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Data(&'static str),
    Trailers(HeaderMap),
    Fail,
    Panic,
    /// Panics if the body is dropped here.
    #[allow(dead_code, reason = "not every test that includes this file uses it")]
    PanicOnDrop,
    /// Ends, and does not report the end before it is polled.
    End,
    /// Has ended, and reports it.
    Closed,
}

/// The error of the body itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the source broke")]
pub(super) struct Broken;

#[derive(Debug, Default)]
struct State {
    steps: VecDeque<Step>,
    waker: Option<Waker>,
    size: SizeHint,
    dropped: bool,
    polls: usize,
    ambient: Option<(Option<Deadline>, Option<u32>)>,
}

/// A handle that controls a [`Scripted`] body, and shows its state.
#[derive(Clone, Debug, Default)]
pub(super) struct Feed(Arc<Mutex<State>>);

/// A body that follows its script.
pub(super) struct Scripted(Feed);

impl Feed {
    pub(super) fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        let feed = Self::default();
        feed.state().steps.extend(steps);
        feed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(super) fn with_size(self, size: u64) -> Self {
        self.state().size = SizeHint::with_exact(size);
        self
    }

    pub(super) fn body(&self) -> Scripted {
        Scripted(self.clone())
    }

    pub(super) fn push(&self, steps: impl IntoIterator<Item = Step>) {
        let waker = {
            let mut state = self.state();
            state.steps.extend(steps);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Returns whether every step so far was taken.
    pub(super) fn is_drained(&self) -> bool {
        self.state().steps.is_empty()
    }

    pub(super) fn is_dropped(&self) -> bool {
        self.state().dropped
    }

    /// Returns the deadline and the attempt that the body saw at its last poll, or when dropped.
    pub(super) fn ambient(&self) -> Option<(Option<Deadline>, Option<u32>)> {
        self.state().ambient
    }

    /// Returns how often the body was polled.
    #[allow(dead_code, reason = "not every test that includes this file uses it")]
    pub(super) fn polls(&self) -> usize {
        self.state().polls
    }

    fn look_around(&self) {
        let attempt = Attempt::current().map(|attempt| attempt.number());
        self.state().ambient = Some((Deadline::current(), attempt));
    }
}

impl Body for Scripted {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.0.look_around();
        let mut state = self.0.state();
        state.polls += 1;
        let Some(step) = state.steps.pop_front() else {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        if let (Step::Data(data), Some(size)) = (&step, state.size.exact()) {
            state.size = SizeHint::with_exact(size.saturating_sub(data.len() as u64));
        }
        drop(state);
        Poll::Ready(match step {
            Step::Data(data) => Some(Ok(Frame::data(Bytes::from_static(data.as_bytes())))),
            Step::Trailers(trailers) => Some(Ok(Frame::trailers(trailers))),
            Step::Fail => Some(Err(Broken)),
            Step::Panic | Step::PanicOnDrop => panic!("as the script says"),
            Step::End | Step::Closed => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0.state().steps.front(), Some(Step::Closed))
    }

    fn size_hint(&self) -> SizeHint {
        self.0.state().size
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.0.look_around();
        let mut state = self.0.state();
        state.dropped = true;
        if matches!(state.steps.front(), Some(Step::PanicOnDrop)) {
            drop(state);
            panic!("as the script says");
        }
    }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Scripted").field(&self.0).finish()
    }
}
